//! Settings that hold a secret. Each of them (an argument whose environment value clap must not
//! show, `hide_env_values`) can come from a file instead: a variable is inherited by every child
//! process and shown by many a tool. `DATABASE_URL_FILE` (`--database-url-file`) names a file with
//! what would stand in `DATABASE_URL`. Done here for all of them, before clap parses the values.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, value_parser};

/// Nothing that is passed this way is larger; a path to something endless is a mistake.
const MAX_BYTES: u64 = 64 * 1024;

/// A text that shows in no log.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
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

/// Gives each secret of a command, and of those below it, its `…_FILE`.
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

/// Puts what the files hold that `matches` names into a declared command, in the place of what was
/// not set. The error names both settings, or the file.
pub(crate) fn fill(mut command: Command, matches: &ArgMatches) -> Result<Command, String> {
    for secret in secrets(&command) {
        let Ok(Some(file)) = matches.try_get_one::<PathBuf>(&secret.file_id()) else { continue };
        let (env, file_env) = (&secret.env, secret.file_env());
        if matches.value_source(&secret.id).is_some_and(|source| source != ValueSource::DefaultValue) {
            return Err(format!("{env} and {file_env} are both set: leave one of them out"));
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

/// What a file holds, without the one newline that editors and `echo` put at its end.
fn read(path: &Path) -> Result<String, String> {
    let mut held = String::new();
    let file = File::open(path).map_err(|error| format!("it can't be read: {error}"))?;
    // The text of this error could hold a part of the file only if it were UTF-8.
    let length = file.take(MAX_BYTES + 1).read_to_string(&mut held).map_err(|e| format!("it can't be read: {e}"))?;
    if length as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes: that is no secret"));
    }
    if held.ends_with('\n') {
        held.pop();
        if held.ends_with('\r') {
            held.pop();
        }
    }
    Ok(held)
}
