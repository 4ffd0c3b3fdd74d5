//! `make claims`: tests the assumptions of the design on a real Kafka and PostgreSQL and prints the
//! table of docs/CLAIMS.md. Exit status 1: a claim did not hold, or could not be tested.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use loadtest::claims::{CLAIMS, Finding, Lab, test_claim};
use tokio::task::{LocalSet, spawn_local};

/// Tests the assumptions of the design
#[derive(Parser, Debug)]
struct Settings {
    /// numbers of claims, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=CLAIMS.len() as u64))]
    only: Vec<u64>,
    /// seed of the generated events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// what is measured: versions and machine
    #[arg(long, env = "BENCH_VERSION", default_value = "")]
    version: String,
    /// the port to which the broker's second listener sends its clients
    #[arg(long, env = "CLAIMS_PROXY_PORT")]
    proxy_port: u16,
    /// that listener, host:port
    #[arg(long, env = "CLAIMS_BEHIND_PROXY")]
    behind_proxy: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Settings { only, seed, version, proxy_port, behind_proxy } = Settings::parse();
    let lab = Lab { seed, proxy_port, behind_proxy };
    println!("Measured on {version}; seed {seed}.\n\n| | claim | measured | result |\n|---|---|---|---|");
    let mut failed = 0;
    for (number, claim) in (1..).zip(CLAIMS) {
        if !only.is_empty() && !only.contains(&(number as u64)) {
            continue;
        }
        let (start, lab) = (Instant::now(), lab.clone());
        // In its own task, so that a panic of the test kit fails this claim only.
        let test = async { spawn_local(async move { test_claim(number, &lab).await }).await };
        let tested = LocalSet::new().run_until(test).await;
        let finding = tested.map_err(anyhow::Error::from).flatten();
        let Finding { measured, holds } =
            finding.unwrap_or_else(|error| Finding { measured: format!("error: {error:#}"), holds: false });
        println!("| {number} | {claim} | {measured} | {} |", if holds { "holds" } else { "**FAILS**" });
        eprintln!("claim {number}: {:.1?}", start.elapsed());
        failed += usize::from(!holds);
    }
    eprintln!("{failed} claims failed");
    ExitCode::from(u8::from(failed > 0))
}
