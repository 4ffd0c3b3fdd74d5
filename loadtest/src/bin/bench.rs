//! `make bench`: runs the measurements of [`loadtest::bench`] and prints their figures.

use std::path::PathBuf;

use clap::Parser;
use loadtest::bench::{Lab, freshness, memory, publish};

/// Measures what the whole costs
#[derive(Parser, Debug)]
struct Settings {
    /// what to measure, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "publish,freshness,memory-api")]
    only: Vec<String>,
    /// short runs, to see that all of it works
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new(), default_value = "")]
    quick: bool,
    /// where the programs to measure are
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// where logs are kept
    #[arg(long, default_value = "loadtest/out")]
    out: PathBuf,
    /// where Kafka is
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// where PostgreSQL is; only databases made here are touched
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Settings { only, quick, programs, out, kafka, database_url } = Settings::parse();
    let lab = Lab { kafka, database_url, out, quick, programs };
    for part in only {
        let figures = match part.as_str() {
            "publish" => publish::publish(&lab).await?,
            "freshness" => freshness::freshness(&lab).await?,
            "memory-api" => memory::memory(&lab).await?,
            other => anyhow::bail!("--only {other}: publish, freshness or memory-api"),
        };
        for figures in figures {
            println!("{}", serde_json::to_string(&figures)?);
        }
    }
    Ok(())
}
