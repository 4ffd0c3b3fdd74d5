//! `make replays`: what `audit`, `audit --log` and `rebuild` take of memory, disk and time, on logs
//! of several sizes: the memory must not grow with the log. Each log is drained first, and every
//! count compared with what the events say, before and after.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use loadtest::aggregator::{Aggregator, peak_memory_mib};
use loadtest::backlog::Backlog;
use loadtest::database::Database;
use loadtest::generate::{EventIds, Shape};
use loadtest::log;
use loadtest::reference::Repeats;
use serde_json::json;

/// How often a command is looked at: what it holds for less than this may be missed.
const LOOK: Duration = Duration::from_millis(10);

/// How often, in looks, the database's size is asked for.
const SIZE_EVERY: u32 = 20;

/// What is measured, in the order in which it runs.
const COMMANDS: [&[&str]; 3] = [&["audit"], &["audit", "--log"], &["rebuild", "--yes"]];

/// Measures audit, audit --log and rebuild
#[derive(Parser, Debug)]
struct Settings {
    /// events in the logs, repeats included, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
    events: Vec<u64>,
    /// different products; likes among them by Zipf's law
    #[arg(long, default_value_t = 1_000)]
    products: u32,
    /// different users
    #[arg(long, default_value_t = 100_000)]
    users: u32,
    /// partitions of the topic
    #[arg(long, default_value_t = 32)]
    partitions: i32,
    /// the program to measure
    #[arg(long, default_value = "target/release/like-aggregator")]
    aggregator: PathBuf,
    /// where results are added, as lines of JSON, and logs are kept
    #[arg(long, default_value = "loadtest/out")]
    out: PathBuf,
    /// where Kafka is
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// where PostgreSQL is; only databases made here are touched
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Settings::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    std::fs::create_dir_all(&settings.out)?;
    println!("{:>10}  {:14} {:>9} {:>9} {:>8}  counts", "events", "command", "peak MiB", "disk MiB", "s");
    for &events in &settings.events {
        let name = format!("replays_{}", uuid::Uuid::now_v7().simple());
        let measured = of_one_log(settings, &name, events).await;
        if let Err(error) = log::delete(&settings.kafka, &name).await {
            eprintln!("left behind: {error:#}");
        }
        measured.with_context(|| format!("{events} events"))?;
    }
    Ok(())
}

async fn of_one_log(settings: &Settings, name: &str, events: u64) -> anyhow::Result<()> {
    let users = Some(settings.users);
    let products = settings.products;
    let shape = Shape { events, products, users, hot_percent: 0, event_ids: EventIds::V7, seed: 1 };
    let backlog = Backlog::fill(&settings.kafka, name, settings.partitions, shape).await?;
    let mut database = Database::create(&settings.database_url, name).await?;
    let measured = drain_and_replay(settings, &backlog, &mut database).await;
    if let Err(error) = database.remove().await {
        eprintln!("left behind: {error:#}");
    }
    measured
}

async fn drain_and_replay(settings: &Settings, backlog: &Backlog, database: &mut Database) -> anyhow::Result<()> {
    let (program, url, events) = (&settings.aggregator, database.url.clone(), backlog.shape.events);
    let env = [
        ("KAFKA_BOOTSTRAP_SERVERS", &*settings.kafka),
        ("KAFKA_TOPIC", &backlog.topic),
        ("KAFKA_GROUP_ID", &backlog.topic),
        ("DATABASE_URL", &url),
    ];
    loadtest::aggregator::command(program, &["setup", "--partitions", &backlog.partitions.to_string()], &env)?;
    let start = Instant::now();
    let mut live = Aggregator::start(program, &[], &env, &settings.out.join("replays-run.log"))?;
    while database.folded().await? < events as i64 {
        live.check()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (seconds, peak) = (start.elapsed().as_secs_f64(), peak_memory_mib(live.pid()).context("/proc")?);
    let size = database.size_mib().await?;
    let mut exact = backlog.is_exact(database, Repeats::Dropped, 0).await?;
    tell(settings, events, "run", [peak, size, seconds], exact)?;

    // Beside the live one, as an operator runs them.
    for args in COMMANDS {
        let [peak, most, seconds] = measure(settings, args, &env, database).await?;
        live.check()?;
        exact &= backlog.is_exact(database, Repeats::Dropped, 0).await?;
        tell(settings, events, &args.join(" "), [peak, most - size, seconds], exact)?;
    }
    ensure!(exact, "counts are wrong");
    live.stop()
}

/// Runs a command to its end, which must be exit status 0: the most memory that it held, the most
/// that the database took meanwhile, and the seconds.
async fn measure(
    settings: &Settings,
    args: &[&str],
    env: &[(&str, &str)],
    database: &mut Database,
) -> anyhow::Result<[f64; 3]> {
    let path = settings.out.join("replays-command.log");
    let output = std::fs::File::create(&path)?;
    let mut command = Command::new(&settings.aggregator);
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let start = Instant::now();
    let mut child = command.spawn()?;
    let (mut peak, mut size) = (0.0_f64, database.size_mib().await?);
    for look in 1u32.. {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{}: {status}, see {}", args.join(" "), path.display());
            break;
        }
        peak = peak.max(peak_memory_mib(child.id() as i32).unwrap_or_default());
        if look.is_multiple_of(SIZE_EVERY) {
            size = size.max(database.size_mib().await?);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok([peak, size, start.elapsed().as_secs_f64()])
}

fn tell(settings: &Settings, events: u64, what: &str, figures: [f64; 3], exact: bool) -> anyhow::Result<()> {
    let [peak, disk, seconds] = figures.map(|figure| (figure * 10.0).round() / 10.0);
    let counts = if exact { "exact" } else { "WRONG" };
    println!("{events:>10}  {what:14} {peak:>9.1} {disk:>9.0} {seconds:>8.1}  {counts}");
    let line = json!({
        "events": events, "products": settings.products, "users": settings.users, "command": what,
        "peak_mib": peak, "disk_mib": disk, "seconds": seconds, "exact": exact,
    });
    let mut file = OpenOptions::new().create(true).append(true).open(settings.out.join("replays.jsonl"))?;
    Ok(writeln!(file, "{line}")?)
}
