//! Reads the settings, starts logging and runs the command. Exit status 0: done; 1: a command found differences, `run`
//! ended because continuing would be wrong, or `healthcheck` found the service not healthy; 2: the settings are unusable or
//! a command has failed.

use std::process::ExitCode;

use like_aggregator::cli::{Cli, CliCommand};
use like_aggregator::commands::{self, Outcome};
use like_aggregator::timing::Timing;
use like_common::error_text::error_text;
use like_common::{admin, cli, shutdown, telemetry, traces};

pub fn main() -> ExitCode {
    let settings = match cli::parse::<Cli>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    if let (CliCommand::Run(_), Err(refusal)) = (&settings.command, traces::check()) {
        return cli::usage_error(&refusal);
    }
    let reports_by_logs = matches!(settings.command, CliCommand::Run(_) | CliCommand::Setup(_));
    let init = if reports_by_logs { telemetry::init } else { telemetry::init_beside_output };
    if let Err(refusal) = init(&settings.log) {
        return cli::usage_error(&refusal);
    }
    let failed = match settings.command {
        CliCommand::Run(_) | CliCommand::Healthcheck(_) => 1,
        _ => cli::EXIT_USAGE,
    };
    // One thread is enough: the consumer has its own, and the rest waits for PostgreSQL.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let result = runtime.block_on(async {
        match settings.command {
            CliCommand::Run(settings) => {
                like_aggregator::run::run(settings, Timing::default(), shutdown::on_signal()?).await?;
            }
            CliCommand::Setup(settings) => commands::setup(&settings).await?,
            CliCommand::Status(settings) => commands::status(&settings).await?,
            CliCommand::Healthcheck(settings) => admin::healthcheck(settings.admin.admin_addr, settings.ready).await?,
            CliCommand::Topics(settings) => return commands::topics(&settings).await,
            CliCommand::Rebuild(settings) => commands::rebuild(&settings, shutdown::on_signal()?).await?,
            CliCommand::Audit(settings) if settings.log => {
                return commands::audit_log(&settings, shutdown::on_signal()?).await;
            }
            CliCommand::Audit(settings) => return commands::audit(&settings).await,
            CliCommand::DeadLetters(settings) => return commands::dead_letters(&settings).await,
            CliCommand::Import(settings) => return commands::import(settings).await,
            CliCommand::EraseUser(settings) => return commands::erase_user(&settings).await,
            CliCommand::Offsets(settings) => return commands::offsets(&settings).await,
        }
        Ok(Outcome::Clean)
    });
    // Doesn't wait for threads that a lost broker keeps busy: everything is committed.
    runtime.shutdown_background();
    telemetry::flush();
    match result {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Differences) => ExitCode::from(1),
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<cli::UsageError>() {
                return cli::usage_error(&usage.0);
            }
            cli::print_error(&error_text(&error));
            ExitCode::from(failed)
        }
    }
}
