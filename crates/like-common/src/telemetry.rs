//! Structured logs, as text or JSON, at the levels of `RUST_LOG`. A service logs to standard output, a command to standard
//! error, beside its output. Logging never waits for the output and never ends the process (`lines`).

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::PanicHookInfo;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;
use std::{env, panic, thread};

use clap::{Args, ValueEnum};
use prometheus::IntCounter;
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use self::lines::Lines;

const DEFAULT_LEVELS: &str = "info,sqlx::postgres::notice=warn";

/// How long the end of a process may wait for an output that takes no lines.
const FLUSH: Duration = Duration::from_millis(500);

static LINES: OnceLock<Arc<Lines>> = OnceLock::new();

/// The metric of lines that could not be written. One per process, like the output.
pub static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "log lines that were dropped, because the output took no more or failed";
    IntCounter::new("likes_log_lines_dropped_total", help).expect("a valid metric")
});

#[derive(Args, Debug, Clone)]
pub struct LogSettings {
    /// text for people, json for a log store
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// One line per event either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging to standard output. `main` calls it once. The error names `RUST_LOG`.
pub fn init(settings: &LogSettings) -> Result<(), String> {
    to(settings, io::stdout().as_fd())
}

/// Starts logging to standard error, for a command whose standard output is its result.
pub fn init_beside_output(settings: &LogSettings) -> Result<(), String> {
    to(settings, io::stderr().as_fd())
}

/// Waits a moment until the lines are written. `main` calls it at the end, and before it prints to the same output.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(FLUSH);
    }
}

fn to(settings: &LogSettings, output: BorrowedFd<'_>) -> Result<(), String> {
    let levels = levels(env::var_os("RUST_LOG").map(|levels| levels.to_string_lossy().into_owned()))?;
    // Not through the standard library's handle, whose lock a blocked write would hold.
    let output = output.try_clone_to_owned().map_err(|error| format!("the output for logs: {error}"))?;
    let lines = Arc::new(Lines::new(DROPPED.clone()));
    let writing = Arc::clone(&lines);
    let thread = thread::Builder::new().name("logs".to_owned());
    thread
        .spawn(move || writing.write_to(File::from(output)))
        .map_err(|error| format!("a thread for logs: {error}"))?;

    // By default, an event that can't be formatted is printed to standard error, which may block.
    let builder = tracing_subscriber::fmt().with_env_filter(levels).with_ansi(false).log_internal_errors(false);
    let builder = builder.with_writer(Arc::clone(&lines));
    match settings.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    let _ = LINES.set(lines);
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Parses `RUST_LOG`. `EnvFilter` takes any single word for a target, so that a mistyped level turns off all others.
fn levels(set: Option<String>) -> Result<EnvFilter, String> {
    let set = set.filter(|levels| !levels.trim().is_empty()).unwrap_or_else(|| DEFAULT_LEVELS.to_owned());
    let refused = |why: &str| {
        format!(
            "RUST_LOG can't be '{set}' ({why}): expected off, error, warn, info, debug or trace, or a list of levels and \
             target=level such as warn,like_api=debug"
        )
    };
    let parts: Vec<_> = set.split(',').map(str::trim).collect();
    let is_level = |part: &&&str| part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok();
    if let Some(word) = parts.iter().find(|part| !is_level(part)) {
        return Err(refused(&format!("'{word}' is not a level")));
    }
    EnvFilter::try_new(parts.join(",")).map_err(|error| refused(&error.to_string()))
}

/// Logs a panic as one event. The standard hook would write to standard error, and wait for it.
fn log_panic(panicked: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let location = panicked.location().map(tracing::field::display);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
    let message = panicked.payload_as_str().unwrap_or("no message");
    error!(thread = thread.name(), location, backtrace, "panicked: {message}");
    // The end of the main thread may be that of the process.
    if thread.name() == Some("main") {
        flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_levels_are_named() {
        for set in ["loud", "info,like_api", "like_api=loud", "info,,=", "info,like_api==debug", "like_api=debug=info"]
        {
            let refused = levels(Some(set.to_owned())).unwrap_err();
            assert!(refused.contains(&format!("RUST_LOG can't be '{set}'")), "{refused}");
        }
        for set in
            ["", "warn", "OFF", "info, like_api=debug,sqlx::query=off", "info,[request{id=7}]=trace", DEFAULT_LEVELS]
        {
            levels(Some(set.to_owned())).expect(set);
        }
    }
}
