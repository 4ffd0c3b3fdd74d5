//! Wires like-aggregator: settings, logs, then the command. Exit status 0: done; 1: it failed, or
//! must not go on; 2: it can't use its settings.

use std::process::ExitCode;

use like_aggregator::commands;
use like_aggregator::config::{Cli, Command};
use like_aggregator::timing::Timing;
use like_service::{admin, cli, shutdown, telemetry};

/// See the crate.
pub fn main() -> ExitCode {
    let settings = match cli::parse::<Cli>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    telemetry::init(&settings.log);
    // One thread is enough: the consumer has its own, and the rest waits for PostgreSQL.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let result = runtime.block_on(async {
        match settings.command {
            Command::Run(settings) => commands::run(settings, Timing::default(), shutdown::on_signal()?).await,
            Command::Setup(settings) => commands::setup(&settings).await,
            Command::Status(settings) => commands::status(&settings).await,
            Command::Healthcheck(settings) => admin::healthcheck(settings.admin_addr).await,
        }
    });
    // Not waiting for threads that a lost broker keeps busy: all that matters is committed.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<cli::UsageError>() {
                return cli::usage_error(&usage.0);
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
