//! `make drain`: how fast a backlog is worked off, for one setting or another; `loadtest::drain`
//! says what is measured. `make bench` measures the same and more, against what limits it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use loadtest::backlog::{Backlog, Mode};
use loadtest::drain::{Place, Plan, measure};
use loadtest::generate::{EventIds, Shape};
use loadtest::log;
use loadtest::report::{Measured, print_heading, print_row};

/// Measures how fast like-aggregator drains a backlog
#[derive(Parser, Debug)]
struct Settings {
    /// events in each log, repeats included
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// different products; likes among them by Zipf's law
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    products: u32,
    /// different users
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,
    /// of 100 likes, how many go to one product, beside Zipf's law
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    hot_percent: u32,
    /// partitions of the topic
    #[arg(long, default_value_t = 32)]
    partitions: i32,
    /// aggregators that share them
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// what to measure, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "history-user,history-delta,batch-user,batch-delta"
    )]
    modes: Vec<Mode>,
    /// how events are named: v7 as without an Idempotency-Key, v8 as with one
    #[arg(long, value_enum, default_value = "v7")]
    event_ids: EventIds,
    /// another seed, another log
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// records per batch at most; default: like-aggregator's own
    #[arg(long)]
    batch_max_events: Option<u32>,
    /// show the statements that took longest
    #[arg(long)]
    statements: bool,
    /// the program to measure
    #[arg(long, default_value = "target/release/like-aggregator")]
    aggregator: PathBuf,
    /// where the result is added as a line of JSON, and the aggregator's log is kept
    #[arg(long, default_value = "loadtest/out")]
    out: PathBuf,
    /// the broker's process, to tell what it uses
    #[arg(long, env = "KAFKA_PID")]
    kafka_pid: Option<i32>,
    /// where Kafka is
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// where PostgreSQL is; only databases made here are touched
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    match runtime.block_on(drain(&settings)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether all counts were right.
async fn drain(settings: &Settings) -> anyhow::Result<bool> {
    std::fs::create_dir_all(&settings.out)?;
    let mut exact = true;
    for (number, mode) in settings.modes.iter().enumerate() {
        let measured = one(settings, *mode).await.with_context(|| mode.name())?;
        if number == 0 {
            print_heading(&measured);
        }
        print_row(&measured);
        exact &= measured.exact;
        let line = serde_json::to_string(&measured)? + "\n";
        let path = settings.out.join("drain.jsonl");
        OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())?;
    }
    Ok(exact)
}

async fn one(settings: &Settings, mode: Mode) -> anyhow::Result<Measured> {
    let users = mode.of_users().then_some(settings.users);
    let Settings { events, products, hot_percent, event_ids, seed, .. } = *settings;
    let shape = Shape { events, products, users, hot_percent, event_ids, seed };
    let topic = format!("drain_{}", uuid::Uuid::now_v7().simple());
    let place = Place {
        kafka: settings.kafka.clone(),
        kafka_pid: settings.kafka_pid,
        database_url: settings.database_url.clone(),
        aggregator: settings.aggregator.clone(),
        out: settings.out.clone(),
    };
    let statements = if settings.statements { 8 } else { 0 };
    let clock = if settings.workers > 1 { loadtest::drain::Clock::Held } else { loadtest::drain::Clock::FirstBatch };
    let Settings { workers, batch_max_events, .. } = *settings;
    let plan = Plan { workers, batch_max_events, statements, clock, ..Plan::of(mode) };
    let measured = match Backlog::fill(&settings.kafka, &topic, settings.partitions, shape).await {
        Ok(backlog) => measure(&place, &backlog, plan, None).await,
        Err(error) => Err(error),
    };
    if let Err(error) = log::delete(&settings.kafka, &topic).await {
        eprintln!("left behind: {error:#}");
    }
    measured
}
