//! Settings from flags and environment, parsed by clap. A setting that can't be used ends the
//! process with status 2 and one line that names the setting and what it expects.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};

use crate::{secrets, telemetry};

/// Exit status after unusable settings.
pub const EXIT_USAGE: u8 = 2;

/// How long the end of a process may wait for a reader of its error.
const PRINT_LIMIT: Duration = Duration::from_millis(500);

/// Parses flags, environment, and the files that hold secrets. If that fails, prints the message and returns the exit
/// status (0 for `--help` and `--version`).
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    let refused = |error: clap::Error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(error.exit_code() as u8)
        }
        _ => usage_error(&one_line(&secrets::declare(T::command()), &error)),
    };
    let declared = secrets::declare(T::command());
    // The first pass finds the files, the second has their contents.
    let named = declared.clone().try_get_matches().map_err(refused)?;
    let mut filled = secrets::fill(declared, &named).map_err(|line| usage_error(&line))?;
    let mut matches = filled.try_get_matches_from_mut(std::env::args_os()).map_err(refused)?;
    T::from_arg_matches_mut(&mut matches).map_err(|error| refused(error.format(&mut filled)))
}

/// Settings that each parse, but that can't be used together or name something unusable. `main`
/// finds it in an `anyhow::Error` and prints it with [`usage_error`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Prints one line and returns the exit status for unusable settings.
pub fn usage_error(message: &str) -> ExitCode {
    print_error(&message.replace('\n', " "));
    ExitCode::from(EXIT_USAGE)
}

/// Prints an error, after the log lines before it. Unlike `eprintln!`, it doesn't panic if standard error is closed, and
/// doesn't wait long if nothing reads it.
pub fn print_error(message: &str) {
    telemetry::flush();
    let line = format!("error: {message}\n");
    let (printed, done) = mpsc::channel();
    thread::spawn(move || printed.send(io::stderr().write_all(line.as_bytes())));
    let _ = done.recv_timeout(PRINT_LIMIT);
}

/// A clap `value_parser` for a duration such as `48h`, `100ms`, `2days`.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("expected a duration such as 100ms, 30s, 48h ({e})"))
}

/// Returns a duration as settings write it.
pub fn shown(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// The same within bounds, which the error names.
pub fn duration_between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = duration(text)?;
    let fits = (least..=most).contains(&duration);
    if fits { Ok(duration) } else { Err(format!("expected {} to {}", shown(least), shown(most))) }
}

/// Returns clap's error as one line, with the setting's environment variable, which clap omits.
fn one_line(command: &Command, error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let setting = text(ContextKind::InvalidArg).and_then(|arg| Setting::find(command, &arg));
    let first = error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let (Some(setting), false) = (setting, error.kind() == ErrorKind::ArgumentConflict) else {
        // clap names a missing argument on the lines after the first.
        let missing = (error.kind() == ErrorKind::MissingRequiredArgument).then(|| text(ContextKind::InvalidArg));
        return missing.flatten().map_or(first, |arg| format!("{arg} is missing"));
    };
    match error.kind() {
        ErrorKind::MissingRequiredArgument => format!("{} is not set: expected {}", setting.name, setting.expected),
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_none_or(|v| v.is_empty()) => {
            format!("{} is empty: expected {}", setting.name, setting.expected)
        }
        _ => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let reason = std::error::Error::source(error).map(|e| format!(" ({e})")).unwrap_or_default();
            let wrong = if setting.secret { "is not valid".to_owned() } else { format!("can't be '{value}'") };
            format!("{} {wrong}: expected {}{reason}", setting.name, setting.expected)
        }
    }
}

struct Setting {
    name: String,
    secret: bool,
    expected: String,
}

impl Setting {
    /// Finds the argument that clap shows as `--flag <VALUE>` or, without a flag, as `<VALUE>`, in
    /// the command or its subcommands.
    fn find(command: &Command, shown: &str) -> Option<Self> {
        let shown = shown.split([' ', '=']).next()?.trim_end_matches('.');
        let is_it = |arg: &&clap::Arg| match (shown.strip_prefix("--"), arg.get_value_names()) {
            (Some(long), _) => arg.get_long() == Some(long),
            (None, Some([name])) => arg.is_positional() && shown.trim_matches(['<', '>', '[', ']']) == name.as_str(),
            (None, _) => false,
        };
        let Some(arg) = command.get_arguments().find(is_it) else {
            return command.get_subcommands().find_map(|below| Self::find(below, shown));
        };
        let shown = shown.replace('[', "<").replace(']', ">");
        let name = match arg.get_env() {
            Some(env) => format!("{} ({shown})", env.to_string_lossy()),
            None => shown,
        };
        let choices: Vec<_> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
        let expected = if choices.is_empty() {
            arg.get_help().map(ToString::to_string).unwrap_or_default()
        } else {
            choices.join(" or ")
        };
        Some(Self { name, secret: arg.is_hide_env_values_set(), expected })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Parser, Debug)]
    struct Settings {
        /// host:port of the brokers
        #[arg(long, env = "CLI_TEST_BROKERS", value_name = "HOST:PORT")]
        brokers: String,
        /// a duration such as 48h
        #[arg(long, env = "CLI_TEST_WINDOW", value_parser = duration, default_value = "48h")]
        window: Duration,
        #[arg(long, value_parser = ["history", "batch"], default_value = "history")]
        dedup: String,
    }

    fn refused(args: &[&str]) -> String {
        let error = Settings::try_parse_from([&["x"], args].concat()).unwrap_err();
        one_line(&Settings::command(), &error)
    }

    #[test]
    fn errors_name_setting_and_expectation_in_one_line() {
        assert_eq!(refused(&[]), "CLI_TEST_BROKERS (--brokers) is not set: expected host:port of the brokers");
        let window = refused(&["--brokers", "b", "--window", "soon"]);
        assert!(window.starts_with("CLI_TEST_WINDOW (--window) can't be 'soon': expected a duration"), "{window}");
        assert_eq!(refused(&["--brokers", "b", "--dedup", "no"]), "--dedup can't be 'no': expected history or batch");
        assert!(refused(&["--brokers", "b", "--colour"]).contains("--colour"));
    }
}
