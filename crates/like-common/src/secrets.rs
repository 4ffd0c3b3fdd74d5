//! Settings that hold a secret: arguments with `hide_env_values`. Each can come from a file instead, because child
//! processes inherit variables and many tools show them: `DATABASE_URL_FILE` (`--database-url-file`) names a file with the
//! value of `DATABASE_URL`. The files are read here, before clap parses the values.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, value_parser};

/// No secret is larger; the limit catches a path to an endless file.
const MAX_BYTES: u64 = 64 * 1024;

/// A text that no log shows.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Adds a `…_FILE` argument for each secret of a command and its subcommands.
pub(crate) fn declare(command: Command) -> Command {
    let mut command = command.mut_subcommands(declare);
    for secret in secrets(&command) {
        let file = Arg::new(secret.file_id())
            .long(format!("{}-file", secret.long))
            .env(secret.file_env())
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!("the file that holds {} instead", secret.env));
        command = command.arg(file);
        if secret.required {
            let unless = secret.file_id();
            command = command.mut_arg(secret.id, |arg| arg.required(false).required_unless_present(unless));
        }
    }
    command
}

/// Makes the contents of the files that `matches` names the defaults of their secrets. The error
/// names both settings, or the file.
pub(crate) fn fill(mut command: Command, matches: &ArgMatches) -> Result<Command, String> {
    for secret in secrets(&command) {
        let Ok(Some(file)) = matches.try_get_one::<PathBuf>(&secret.file_id()) else { continue };
        let (env, file_env) = (&secret.env, secret.file_env());
        if matches.value_source(&secret.id).is_some_and(|source| source != ValueSource::DefaultValue) {
            return Err(format!("{env} and {file_env} are both set: unset one of them"));
        }
        let held = read(file).map_err(|error| format!("{file_env}={}: {error}", file.display()))?;
        command = command.mut_arg(&secret.id, |arg| arg.default_value(held).hide_default_value(true));
    }
    if let Some((name, below)) = matches.subcommand()
        && let Some(subcommand) = command.find_subcommand(name)
    {
        let filled = fill(subcommand.clone(), below)?;
        command = command.mut_subcommand(name, |_| filled);
    }
    Ok(command)
}

struct Declared {
    id: String,
    long: String,
    env: String,
    required: bool,
}

impl Declared {
    fn file_id(&self) -> String {
        format!("{}_file", self.id)
    }

    fn file_env(&self) -> String {
        format!("{}_FILE", self.env)
    }
}

fn secrets(command: &Command) -> Vec<Declared> {
    let hidden = command.get_arguments().filter(|arg| arg.is_hide_env_values_set());
    let named = hidden.filter_map(|arg| {
        Some(Declared {
            id: arg.get_id().to_string(),
            long: arg.get_long()?.to_owned(),
            env: arg.get_env()?.to_str()?.to_owned(),
            required: arg.is_required_set(),
        })
    });
    named.collect()
}

/// Returns the contents of a file without the newline that editors and `echo` append.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let mut held = String::new();
    let file = File::open(path).map_err(|error| format!("it can't be read: {error}"))?;
    // This error never quotes the file.
    let length = file.take(MAX_BYTES + 1).read_to_string(&mut held).map_err(|e| format!("it can't be read: {e}"))?;
    if length as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes, so it is not a secret"));
    }
    if held.ends_with('\n') {
        held.pop();
        if held.ends_with('\r') {
            held.pop();
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_newline_is_removed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (held, expected) in [("s3\n\n", "s3\n"), (" s3 ", " s3 ")] {
            std::fs::write(file.path(), held).unwrap();
            assert_eq!(read(file.path()).unwrap(), expected);
        }
        std::fs::write(file.path(), b"s3\xff").unwrap();
        let refused = read(file.path()).unwrap_err();
        assert!(refused.contains("UTF-8") && !refused.contains("s3"), "{refused}");
    }

    #[test]
    fn only_secrets_have_a_file() {
        let key = Arg::new("key").long("key").env("SECRETS_TEST_KEY").hide_env_values(true);
        let name = Arg::new("name").long("name").env("SECRETS_TEST_NAME");
        let declared = declare(Command::new("tool").args([key, name]));
        assert_eq!(declared.get_arguments().filter_map(Arg::get_long).collect::<Vec<_>>(), ["key", "name", "key-file"]);
    }
}
