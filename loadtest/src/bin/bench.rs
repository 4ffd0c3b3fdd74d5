//! `make bench`: measures section by section, prints each table and writes all rows as JSON
//! (`loadtest::bench`).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use loadtest::bench::{self, BacklogOptions, Bench, GrowthOptions};
use serde_json::{Map, json};

/// Measures the services against what limits them
#[derive(Parser, Debug)]
struct Settings {
    /// a few minutes instead of half an hour: smaller logs, fewer rounds
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new(), default_value = "")]
    quick: bool,
    /// only these sections, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "drain,publish,freshness,lists,shedding,streams,tokens"
    )]
    only: Vec<Section>,
    #[command(flatten)]
    backlog: BacklogOptions,
    #[command(flatten)]
    growth: GrowthOptions,
    /// where the JSON goes
    #[arg(long, default_value = "loadtest/out/bench.json")]
    out: PathBuf,
    /// what is measured: versions and machine
    #[arg(long, env = "BENCH_VERSION", default_value = "")]
    version: String,
    /// the broker's process
    #[arg(long, env = "KAFKA_PID", required_unless_present = "bare_route")]
    kafka_pid: Option<u32>,

    /// the folder of the broker's logs
    #[arg(long, env = "KAFKA_DATA", required_unless_present = "bare_route")]
    kafka_data: Option<PathBuf>,
    /// serve the baseline of `publish` on this address
    #[arg(long, hide = true)]
    bare_route: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Section {
    Drain,
    Publish,
    Freshness,
    Shedding,
    Streams,
    Tokens,
    Replays,
    Growth,
    Lists,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    let result = match &settings.bare_route {
        Some(addr) => bench::publish::serve_bare_route(addr).await,
        None => run(settings).await,
    };
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    ExitCode::from(u8::from(result.is_err()))
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let Settings { quick, only, backlog, growth, out, version, kafka_pid, kafka_data, .. } = settings;
    let bench = Bench {
        quick,
        kafka_pid: kafka_pid.context("KAFKA_PID")?,
        kafka_data: kafka_data.context("KAFKA_DATA")?,
        backlog,
        growth,
    };
    let (start, mut sections) = (Instant::now(), Map::new());
    for (number, section) in only.iter().enumerate() {
        let name = format!("{section:?}").to_lowercase();
        eprintln!("[{}/{}, {:.0?}] {name}", number + 1, only.len(), start.elapsed());
        let rows = match section {
            Section::Drain => bench::drain::drain(&bench).await,
            Section::Publish => bench::publish::publish(&bench).await,
            Section::Freshness => bench::freshness::freshness(&bench).await,
            Section::Shedding => bench::shedding::shedding(&bench).await,
            Section::Streams => bench::streams::streams(&bench).await,
            Section::Tokens => bench::tokens::tokens(&bench).await,
            Section::Replays => bench::replays::replays(&bench).await,
            Section::Growth => bench::growth::growth(&bench).await,
            Section::Lists => bench::lists::lists(&bench).await,
        };
        let rows = rows.with_context(|| name.clone())?;
        println!("\n**{name}**\n\n{}", bench::table(&rows));
        sections.insert(name, json!(rows));
        // After each section, so that a failure keeps what was measured before.
        let all = json!({ "version": version, "quick": quick, "sections": sections });
        std::fs::write(&out, format!("{all:#}\n")).with_context(|| out.display().to_string())?;
    }
    println!("{version}{}", if quick { ", quick run" } else { "" });
    Ok(())
}
