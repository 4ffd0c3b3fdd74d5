//! Structured logs, as text or JSON, at the levels of `RUST_LOG`. A service logs to standard output,
//! a command to standard error, beside its output.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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

/// Starts logging to standard output. `main` calls it once.
pub fn init(settings: &LogSettings) {
    to(settings, io::stdout);
}

/// Starts logging to standard error, for a command whose standard output is its result.
pub fn init_beside_output(settings: &LogSettings) {
    to(settings, io::stderr);
}

fn to(settings: &LogSettings, writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx::postgres::notice=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer);
    match settings.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
