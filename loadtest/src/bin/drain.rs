//! How fast does like-aggregator work off a backlog? A log is filled first; then the release
//! build is started, and the clock runs from its first committed batch until `kafka_offset`
//! covers the whole log (what that first batch held isn't counted). Four times: both ways to drop
//! repeats, events of users and delta events, each with a topic and a database of its own. Every
//! count is compared with what the generated events say: a figure for wrong counts would be worth
//! nothing.
//!
//! `make drain` gives it a Kafka and a PostgreSQL that keep what they acknowledge.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use loadtest::aggregator::{self, Aggregator, Cpu};
use loadtest::database::Database;
use loadtest::generate::{EventIds, Generator, Shape, product_id};
use loadtest::log;
use loadtest::reference::{Range, Reference, Repeats};
use loadtest::report::{Measured, print_heading, print_row};

/// How often it is looked how far it has come: the error of the clock.
const POLL: Duration = Duration::from_millis(10);
/// No progress for this long is no progress at all.
const STUCK: Duration = Duration::from_secs(60);

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
    #[arg(long, env = "DRAIN_KAFKA_PID")]
    kafka_pid: Option<i32>,
    /// where Kafka is
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// where PostgreSQL is; only databases made here are touched
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    HistoryUser,
    HistoryDelta,
    BatchUser,
    BatchDelta,
}

impl Mode {
    fn dedup(self) -> (&'static str, Repeats) {
        match self {
            Self::HistoryUser | Self::HistoryDelta => ("history", Repeats::Dropped),
            Self::BatchUser | Self::BatchDelta => ("batch", Repeats::Perhaps),
        }
    }

    fn of_users(self) -> bool {
        matches!(self, Self::HistoryUser | Self::BatchUser)
    }
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
        let measured = measure(settings, *mode).await.with_context(|| format!("{mode:?}"))?;
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

async fn measure(settings: &Settings, mode: Mode) -> anyhow::Result<Measured> {
    let name = format!("drain_{}", uuid::Uuid::now_v7().simple());
    let mut database = Database::create(&settings.database_url, &name).await?;
    let result = run(settings, mode, &mut database).await;
    // Whatever has happened. What can't be removed is only said: the reason is in the result.
    for removed in [log::delete(&settings.kafka, &name).await, database.remove().await] {
        if let Err(error) = removed {
            eprintln!("left behind: {error:#}");
        }
    }
    result
}

async fn run(settings: &Settings, mode: Mode, database: &mut Database) -> anyhow::Result<Measured> {
    let (dedup, repeats) = mode.dedup();
    let topic = database.name.clone();
    let url = database.url.clone();
    let env = [
        ("KAFKA_BOOTSTRAP_SERVERS", settings.kafka.as_str()),
        ("KAFKA_TOPIC", &topic),
        ("KAFKA_GROUP_ID", &topic),
        ("DATABASE_URL", &url),
        ("DEDUP", dedup),
    ];
    aggregator::command(&settings.aggregator, &["setup"], &env)?;

    let users = mode.of_users().then_some(settings.users);
    let Settings { events, products, event_ids, seed, .. } = *settings;
    let mut reference = Reference::new(products);
    let generator = Generator::new(Shape { events, products, users, event_ids, seed });
    let ends = log::fill(&settings.kafka, &topic, generator.inspect(|event| reference.add(event)))?;
    database.settle().await?;

    let batch = settings.batch_max_events.map(|batch| batch.to_string());
    let args = batch.as_deref().map_or(vec![], |batch| vec!["--batch-max-events", batch]);
    let said = settings.out.join(format!("drain-{dedup}-{}.log", if users.is_some() { "user" } else { "delta" }));
    let mut aggregator = Aggregator::start(&settings.aggregator, &args, &env, &said)?;
    // Not from being ready: that is said when it is certain, which may be well into the work.
    let before = wait_until(database, &mut aggregator, 1).await?;
    let start = Instant::now();
    let kafka = || settings.kafka_pid.and_then(aggregator::cpu);
    let (wal, kafka_before) = (database.wal_bytes().await?, kafka());
    let folded = wait_until(database, &mut aggregator, events as i64).await? - before;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(folded > 0, "the log fits into one batch: nothing to measure, give it more --events");

    let (wal, kafka_after) = (database.wal_bytes().await? - wal, kafka());
    let used = aggregator::cpu(aggregator.pid()).context("/proc")?;
    let backends = database.backends().await?.into_iter().filter_map(aggregator::cpu).map(sum).reduce(|a, b| a + b);
    let [statements, batches, dropped] = aggregator.metrics([
        "likes_sql_statements_total",
        "likes_batch_events_count",
        "likes_events_total{outcome=\"duplicate\"}",
    ])?;
    let aggregator_peak_mib = aggregator::peak_memory_mib(aggregator.pid()).context("/proc")?;
    ensure!(database.offsets().await? == ends, "kafka_offset isn't where the log ends");
    aggregator.stop()?;
    let slowest_statements = if settings.statements { database.statements(8).await? } else { Vec::new() };
    let exact = is_exact(database, &reference.counts(repeats), users.is_some()).await?;

    Ok(Measured {
        at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        dedup,
        events_of: if users.is_some() { "users" } else { "delta" },
        events,
        products,
        users: settings.users,
        seed,
        event_ids: format!("{event_ids:?}").to_lowercase(),
        batch_max_events: settings.batch_max_events,
        cores: std::thread::available_parallelism()?.get(),
        postgres: database.durability().await?,
        seconds,
        events_per_second: folded as f64 / seconds,
        aggregator_cpu_user: used.user,
        aggregator_cpu_system: used.system,
        aggregator_peak_mib,
        postgres_cpu: backends,
        kafka_cpu: kafka_after.zip(kafka_before).map(|(after, before)| sum(after - before)),
        wal_mb: wal as f64 / 1e6,
        statements_per_10000: statements * 10_000.0 / events as f64,
        events_per_batch: events as f64 / batches,
        repeats: reference.repeats,
        repeats_dropped: dropped as u64,
        exact,
        slowest_statements,
    })
}

fn sum(cpu: Cpu) -> f64 {
    cpu.user + cpu.system
}

/// Answers how many records are folded, once those are `end` or more.
async fn wait_until(database: &mut Database, aggregator: &mut Aggregator, end: i64) -> anyhow::Result<i64> {
    let (mut at, mut since) = (-1, Instant::now());
    loop {
        let folded = database.folded().await?;
        if folded >= end {
            return Ok(folded);
        }
        if folded > at {
            (at, since) = (folded, Instant::now());
        }
        ensure!(since.elapsed() < STUCK, "no batch for {} s, {folded} of {end} events folded", STUCK.as_secs());
        aggregator.check()?;
        tokio::time::sleep(POLL).await;
    }
}

/// Compares every product; says where they differ.
async fn is_exact(database: &mut Database, expected: &[Range], of_users: bool) -> anyhow::Result<bool> {
    let counted = database.counts().await?;
    let mut wrong = 0;
    let mut found = counted.iter().peekable();
    for (number, range) in (0..).zip(expected) {
        let product = product_id(number);
        let row = found.next_if(|row| row.product_id == product);
        let (count, deltas, likers) = row.map_or((0, 0, 0), |row| (row.count, row.deltas, row.likers));
        let parts = if of_users { count == likers && deltas == 0 } else { count == deltas && likers == 0 };
        if !(parts && (range.least..=range.most).contains(&count)) {
            wrong += 1;
            if wrong <= 5 {
                eprintln!("WRONG: {product} has {count} likes, {likers} likers, {deltas} by delta events: {range:?}");
            }
        }
    }
    if let Some(row) = found.next() {
        wrong += 1;
        eprintln!("WRONG: {row:?} is no product of the log");
    }
    Ok(wrong == 0)
}
