//! How fast does like-aggregator work off a backlog? The release build is started on a filled log
//! and a database of its own, and the clock runs from the first committed batch until
//! `kafka_offset` covers the whole log (what was committed before the clock isn't counted). Every
//! count is compared with what the events say: a figure for wrong counts would be worth nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::aggregator::{self, Aggregator, Cpu};
use crate::backlog::{Backlog, Mode};
use crate::database::Database;
use crate::report::Measured;

/// How often it is looked how far it has come: the error of the clock.
const POLL: Duration = Duration::from_millis(10);
/// No progress for this long is no progress at all.
const STUCK: Duration = Duration::from_secs(60);

/// The servers and programs.
#[derive(Debug, Clone)]
pub struct Place {
    /// Kafka, host:port.
    pub kafka: String,
    /// The broker's process, to tell what it uses.
    pub kafka_pid: Option<i32>,
    /// PostgreSQL; only databases made here are touched.
    pub database_url: String,
    /// The program to measure.
    pub aggregator: PathBuf,
    /// Where its log is kept.
    pub out: PathBuf,
}

/// One drain.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How repeats are dropped; the events are the backlog's.
    pub mode: Mode,
    /// How many aggregators share the partitions.
    pub workers: usize,
    /// Records per batch at most; None: like-aggregator's own setting.
    pub batch_max_events: Option<u32>,
    /// How many of the statements that took longest are kept.
    pub statements: i64,
    /// When the clock starts.
    pub clock: Clock,
    /// Likes that each product has already, by other users.
    pub base: i64,
}

/// When the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// With the first committed batch.
    FirstBatch,
    /// With the first batch of every worker waiting for its lock, which is then released: nothing
    /// is committed before, but what librdkafka fetches ahead (6 MiB) is there.
    Held,
}

impl Plan {
    /// One worker with its own settings on an empty database.
    pub fn of(mode: Mode) -> Self {
        Self { mode, workers: 1, batch_max_events: None, statements: 0, clock: Clock::FirstBatch, base: 0 }
    }
}

/// Drains the backlog into a new database, made from `template` where there is one.
pub async fn measure(place: &Place, backlog: &Backlog, plan: Plan, template: Option<&str>) -> anyhow::Result<Measured> {
    let name = format!("drain_{}", uuid::Uuid::now_v7().simple());
    let mut database = Database::create_from(&place.database_url, &name, template).await?;
    let result = run(place, backlog, plan, &mut database).await;
    // Whatever has happened. What can't be removed is only said: the reason is in the result.
    if let Err(error) = database.remove().await {
        eprintln!("left behind: {error:#}");
    }
    result
}

/// Tables for this topic.
pub fn set_up(place: &Place, backlog: &Backlog, url: &str) -> anyhow::Result<()> {
    let env = [("KAFKA_BOOTSTRAP_SERVERS", &*place.kafka), ("KAFKA_TOPIC", &backlog.topic), ("DATABASE_URL", url)];
    aggregator::command(&place.aggregator, &["setup", "--partitions", &backlog.partitions.to_string()], &env)
}

async fn run(place: &Place, backlog: &Backlog, plan: Plan, database: &mut Database) -> anyhow::Result<Measured> {
    let (dedup, repeats) = plan.mode.dedup();
    let events = backlog.shape.events;
    set_up(place, backlog, &database.url)?;
    let url = database.url.clone();
    let env = [
        ("KAFKA_BOOTSTRAP_SERVERS", &*place.kafka),
        ("KAFKA_TOPIC", &backlog.topic),
        ("KAFKA_GROUP_ID", &database.name.clone()),
        ("DATABASE_URL", &url),
        ("DEDUP", dedup),
    ];
    let batch = plan.batch_max_events.map(|batch| batch.to_string());
    let args = batch.as_deref().map_or(vec![], |batch| vec!["--batch-max-events", batch]);

    database.settle().await?;
    let held = match plan.clock {
        Clock::Held => Some(database.hold_offsets().await?),
        Clock::FirstBatch => None,
    };
    let mut workers = Vec::new();
    for number in 0..plan.workers {
        let log = place.out.join(format!("drain-{}-{number}.log", plan.mode.name()));
        workers.push(Aggregator::start(&place.aggregator, &args, &env, &log)?);
    }
    // Not from being ready: that is said when it is certain, which may be well into the work.
    let before = if let Some(held) = held {
        wait_held(database, &mut workers).await?;
        held.release().await?;
        0
    } else {
        wait_folded(database, &mut workers, 1).await?
    };
    let start = Instant::now();
    let kafka = || place.kafka_pid.and_then(aggregator::cpu);
    let (wal, kafka_before) = (database.wal_bytes().await?, kafka());
    let folded = wait_folded(database, &mut workers, events as i64).await? - before;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(folded > 0, "the log fits into one batch: nothing to measure, give it more events");

    let (wal, kafka_after) = (database.wal_bytes().await? - wal, kafka());
    let mut used = Cpu::default();
    let (mut batches, mut dropped, mut statements, mut aggregator_peak_mib) = (0.0, 0.0, 0.0, 0.0_f64);
    for worker in &workers {
        let cpu = aggregator::cpu(worker.pid()).context("/proc")?;
        used = Cpu { user: used.user + cpu.user, system: used.system + cpu.system };
        let names =
            ["likes_sql_statements_total", "likes_batch_events_count", "likes_events_total{outcome=\"duplicate\"}"];
        let [sent, committed, duplicates] = worker.metrics(names)?;
        (statements, batches, dropped) = (statements + sent, batches + committed, dropped + duplicates);
        aggregator_peak_mib = aggregator_peak_mib.max(aggregator::peak_memory_mib(worker.pid()).context("/proc")?);
    }
    let backends = database.backends().await?.into_iter().filter_map(aggregator::cpu).map(sum).reduce(|a, b| a + b);
    ensure!(database.offsets().await? == backlog.ends, "kafka_offset isn't where the log ends");
    for worker in workers {
        worker.stop()?;
    }
    let work = database.work().await?;
    let slowest_statements = database.statements(plan.statements).await?;
    let exact = backlog.is_exact(database, repeats, plan.base).await?;

    let shape = backlog.shape;
    Ok(Measured {
        at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        dedup,
        events_of: if shape.users.is_some() { "users" } else { "delta" },
        events,
        products: shape.products,
        users: shape.users.unwrap_or_default(),
        partitions: backlog.partitions,
        workers: plan.workers,
        seed: shape.seed,
        event_ids: format!("{:?}", shape.event_ids).to_lowercase(),
        batch_max_events: plan.batch_max_events,
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
        work,
        events_per_batch: events as f64 / batches,
        repeats: backlog.repeats(),
        repeats_dropped: dropped as u64,
        exact,
        slowest_statements,
    })
}

/// Both parts of it.
pub fn sum(cpu: Cpu) -> f64 {
    cpu.user + cpu.system
}

/// Until each worker's first batch waits for its offsets.
async fn wait_held(database: &mut Database, workers: &mut [Aggregator]) -> anyhow::Result<()> {
    let start = Instant::now();
    while database.waiting_for_locks().await? < workers.len() as i64 {
        for worker in workers.iter_mut() {
            worker.check()?;
        }
        ensure!(start.elapsed() < STUCK, "not every worker has got a batch");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Answers how many records are folded, once those are `end` or more.
async fn wait_folded(database: &mut Database, workers: &mut [Aggregator], end: i64) -> anyhow::Result<i64> {
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
        for worker in workers.iter_mut() {
            worker.check()?;
        }
        tokio::time::sleep(POLL).await;
    }
}
