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
    if let Some((name, below)) = matches.subcommand() {
        let mut refused = None;
        command = command.mut_subcommand(name, |sub| match fill(sub.clone(), below) {
            Ok(filled) => filled,
            Err(error) => {
                refused = Some(error);
                sub
            }
        });
        if let Some(refused) = refused {
            return Err(refused);
        }
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
    use std::io::Write;

    use clap::Parser;
    use tempfile::NamedTempFile;

    use super::*;
    use crate::cli::{Refusal, try_parse};

    #[derive(clap::Args, Debug)]
    struct Store {
        /// where it is
        #[arg(long, env = "SECRETS_TEST_STORE_URL", hide_env_values = true)]
        store_url: Secret,
        /// opens it
        #[arg(long, env = "SECRETS_TEST_STORE_KEY", hide_env_values = true)]
        store_key: Option<Secret>,
        #[arg(long, env = "SECRETS_TEST_STORE_NAME", default_value = "store")]
        store_name: String,
    }

    #[derive(Parser, Debug)]
    enum Tool {
        Look(Store),
        #[command(subcommand)]
        Deep(Deep),
        Ping,
    }

    #[derive(clap::Subcommand, Debug)]
    enum Deep {
        Down(Store),
    }

    fn parse(args: &[&str]) -> Result<Tool, String> {
        let args: Vec<_> = ["tool"].iter().chain(args).map(Into::into).collect();
        try_parse(&args).map_err(|refusal| match refusal {
            Refusal::Line(line) => line,
            Refusal::Clap(error) => error.to_string(),
        })
    }

    fn file(held: &[u8]) -> (NamedTempFile, String) {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(held).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    }

    #[test]
    fn secret_comes_from_its_file_without_newline() {
        for (held, expected) in [("s3", "s3"), ("s3\n", "s3"), ("s3\r\n", "s3"), ("s3\n\n", "s3\n"), (" s3 ", " s3 ")] {
            let (_file, path) = file(held.as_bytes());
            for command in [&["look"][..], &["deep", "down"]] {
                let tool = parse(&[command, &["--store-url-file", &path, "--store-key-file", &path]].concat()).unwrap();
                let (Tool::Look(store) | Tool::Deep(Deep::Down(store))) = &tool else { panic!("{tool:?}") };
                assert_eq!(store.store_url.expose(), expected);
                assert_eq!(store.store_key.as_ref().unwrap().expose(), expected);
                assert!(!format!("{tool:?}").contains("s3"), "{tool:?}");
            }
        }
        assert!(matches!(parse(&["ping"]), Ok(Tool::Ping)));
    }

    #[test]
    fn exactly_one_form_is_accepted() {
        let (_file, path) = file(b"s3");
        let neither = parse(&["look"]).unwrap_err();
        assert!(neither.contains("required") && neither.contains("--store-url <"), "{neither}");
        let both = parse(&["deep", "down", "--store-url", "s3", "--store-url-file", &path]).unwrap_err();
        assert_eq!(both, "SECRETS_TEST_STORE_URL and SECRETS_TEST_STORE_URL_FILE are both set: unset one of them");
    }

    #[test]
    fn unusable_file_is_named_but_not_shown() {
        let (_file, binary) = file(b"s3\xff");
        let (_file, large) = file(&b"s3".repeat(MAX_BYTES as usize));
        for (path, said) in [("/nowhere", "can't be read"), (&binary, "UTF-8"), (&large, "more than 65536 bytes")] {
            let refused = parse(&["look", "--store-url-file", path]).unwrap_err();
            assert!(refused.starts_with(&format!("SECRETS_TEST_STORE_URL_FILE={path}: ")), "{refused}");
            assert!(refused.contains(said) && !refused.contains("s3"), "{refused}");
        }
    }

    #[test]
    fn only_secrets_have_a_file() {
        assert!(parse(&["look", "--store-url", "u", "--store-name-file", "/x"]).is_err());
        let help = parse(&["look", "--help"]).unwrap_err();
        assert!(help.contains("--store-key-file <FILE>") && help.contains("SECRETS_TEST_STORE_KEY_FILE"), "{help}");
        assert!(!help.contains("store-name-file"), "{help}");
    }
}
