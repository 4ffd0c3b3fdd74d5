//! Do the claims hold that the design rests on? Each is tried on the real broker and database;
//! one line each, and the table of docs/CLAIMS.md. A claim that doesn't show is a failure, and so
//! is an experiment that can't be carried out.
//!
//! `make claims` gives it a Kafka and a PostgreSQL that are thrown away afterwards.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use loadtest::claims::{CLAIMS, Claim, Finding, Lab, report, try_claim};
use loadtest::database::Database;

/// Tries the claims that the design rests on
#[derive(Parser, Debug)]
struct Settings {
    /// which of them, separated by commas; then the table is left as it is
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=CLAIMS.len() as u64))]
    only: Vec<u64>,
    /// another seed, other events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// the folder of the services' programs
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// where the services' logs are kept
    #[arg(long, default_value = "loadtest/out")]
    logs: PathBuf,
    /// the file that has the table
    #[arg(long, default_value = "docs/CLAIMS.md")]
    table: PathBuf,
    /// where Kafka is
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// its version
    #[arg(long, env = "CLAIMS_KAFKA_VERSION", default_value = "of unknown version")]
    kafka_version: String,
    /// where clients of its second listener are told to come to
    #[arg(long, env = "CLAIMS_PROXY")]
    proxy: String,
    /// where that listener is
    #[arg(long, env = "CLAIMS_BEHIND_PROXY")]
    behind_proxy: String,
    /// where PostgreSQL is; only databases made here are touched
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Settings::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers how many claims failed.
async fn run(settings: Settings) -> anyhow::Result<usize> {
    std::fs::create_dir_all(&settings.logs)?;
    let machine = machine(&settings).await?;
    let lab = Lab {
        brokers: settings.kafka,
        proxy: settings.proxy,
        behind_proxy: settings.behind_proxy,
        database_url: settings.database_url,
        programs: settings.programs,
        logs: settings.logs,
        seed: settings.seed,
    };
    println!("{machine}");
    let mut results = Vec::new();
    for claim in CLAIMS {
        if settings.only.is_empty() || settings.only.contains(&(claim.number as u64)) {
            results.push((claim, tried(claim, &lab).await));
        }
    }
    if settings.only.is_empty() {
        report::write(&settings.table, &machine, &results)?;
    }
    let failed = results.iter().filter(|(_, finding)| !finding.holds).count();
    println!("{} passed, {failed} failed", results.len() - failed);
    Ok(failed)
}

async fn tried(claim: Claim, lab: &Lab) -> Finding {
    let start = Instant::now();
    let finding = try_claim(claim.number, lab).await;
    let finding = finding.unwrap_or_else(|error| Finding { measured: format!("error: {error:#}"), holds: false });
    let result = if finding.holds { "holds" } else { "FAILS" };
    let Claim { number, text } = claim;
    println!("{number:>2}. {text} {} [{:.1} s]: {result}", finding.measured, start.elapsed().as_secs_f64());
    finding
}

async fn machine(settings: &Settings) -> anyhow::Result<String> {
    let mut database = Database::create(&settings.database_url, &Lab::name()).await?;
    let postgres = database.durability().await?;
    database.remove().await?;
    Ok(format!(
        "{} cores, Kafka {}, librdkafka {}, {postgres}; {}, seed {}",
        std::thread::available_parallelism()?,
        settings.kafka_version,
        rdkafka::util::get_rdkafka_version().1,
        chrono::Utc::now().format("%Y-%m-%d"),
        settings.seed
    ))
}
