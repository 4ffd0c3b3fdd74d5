//! Wires like-aggregator: settings, logs, then the command. Exit status 0: done, nothing to say;
//! 1: a command found differences, `run` ended because going on would be wrong, `healthcheck` found
//! no readiness; 2: the settings can't be used or a command could not do its work.

use std::process::ExitCode;

use like_aggregator::cli::{Cli, Command};
use like_aggregator::commands::{self, Outcome};
use like_aggregator::timing::Timing;
use like_common::{admin, cli, shutdown, telemetry, traces};

/// See the crate.
pub fn main() -> ExitCode {
    let settings = match cli::parse::<Cli>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    if let (Command::Run(_), Err(refusal)) = (&settings.command, traces::check()) {
        return cli::usage_error(&refusal);
    }
    let speaks_by_logs = matches!(settings.command, Command::Run(_) | Command::Setup(_));
    if speaks_by_logs {
        telemetry::init(&settings.log);
    } else {
        telemetry::init_beside_output(&settings.log);
    }
    let failed = match settings.command {
        Command::Run(_) | Command::Healthcheck(_) => 1,
        _ => cli::EXIT_USAGE,
    };
    // One thread is enough: the consumer has its own, and the rest waits for PostgreSQL.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let result = runtime.block_on(async {
        match settings.command {
            Command::Run(settings) => {
                like_aggregator::run::run(settings, Timing::default(), shutdown::on_signal()?).await?;
            }
            Command::Setup(settings) => commands::setup(&settings).await?,
            Command::Status(settings) => commands::status(&settings).await?,
            Command::Healthcheck(settings) => admin::healthcheck(settings.admin_addr).await?,
            Command::Topics(settings) => return commands::topics(&settings).await,
            Command::Rebuild(settings) => commands::rebuild(&settings, shutdown::on_signal()?).await?,
            Command::Audit(settings) if settings.log => {
                return commands::audit_log(&settings, shutdown::on_signal()?).await;
            }
            Command::Audit(settings) => return commands::audit(&settings).await,
            Command::DeadLetters(settings) => return commands::dead_letters(&settings).await,
            Command::Import(settings) => return commands::import(settings).await,
            Command::EraseUser(settings) => return commands::erase_user(&settings).await,
            Command::Offsets(settings) => return commands::offsets(&settings).await,
        }
        Ok(Outcome::Clean)
    });
    // Not waiting for threads that a lost broker keeps busy: all that matters is committed.
    runtime.shutdown_background();
    match result {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Differences) => ExitCode::from(1),
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<cli::UsageError>() {
                return cli::usage_error(&usage.0);
            }
            eprintln!("error: {error:#}");
            ExitCode::from(failed)
        }
    }
}
