//! How fast like-aggregator drains a backlog. It starts on a filled topic with an empty database. The
//! clock runs from the first committed batch until `kafka_offset` covers the whole log; with several
//! workers, from when each has a batch ready, which a lock on the offsets holds back until then.
//! Every count is compared with what the events say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use like_testkit::{TestService, TestSystem};
use sqlx::PgPool;

use super::{BacklogOptions, Bench, Row, checkpoint, floors, medians};
use crate::backlog::{Backlog, Mode};
use crate::events::Shape;
use crate::row;
use crate::usage::{cpu_seconds, peak_memory_mib};

/// Polling interval: the error of the clock.
const POLL: Duration = Duration::from_millis(10);
/// A drain that makes no progress for this long has failed.
const STUCK: Duration = Duration::from_secs(60);

/// All modes, each beside its limits: (a) consuming and parsing alone, (b) the same SQL fed from
/// memory, (c) what the service replaces, one UPDATE and transaction per event.
pub async fn drain(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let rounds = if bench.quick { 1 } else { 3 };
    let mut table = Vec::new();
    for has_users in [true, false] {
        let modes: Vec<_> = bench.backlog.modes.iter().filter(|mode| mode.has_users() == has_users).collect();
        if modes.is_empty() {
            continue;
        }
        let backlog = fill(bench, has_users).await?;
        let BacklogOptions { lanes, user_likes, .. } = &bench.backlog;
        let indexes = if user_likes.is_empty() { vec![None] } else { user_likes.iter().map(Some).collect() };
        let mut kinds = Vec::new();
        for mode in modes {
            kinds.extend(lanes.iter().flat_map(|lanes| indexes.iter().map(move |index| (*mode, *lanes, *index))));
        }
        let mut rows = vec![Vec::new(); kinds.len()];
        for _ in 0..rounds {
            let one_by_one = floors::one_by_one(&backlog, if bench.quick { 2_000 } else { 20_000 }).await?;
            for ((mode, lanes, index), rows) in kinds.iter().zip(&mut rows) {
                let mut row = one(bench, &backlog, *mode, *lanes, index.map(String::as_str)).await?;
                let rate = row["per_second"].as_f64().unwrap_or_default();
                let consume = floors::consume(&backlog)?;
                let memory = floors::from_memory(&backlog, *mode).await?;
                row.extend(row! {
                    "a_consume_per_second": consume,
                    "b_sql_per_second": memory,
                    "percent_of_slower": rate / consume.min(memory) * 100.0,
                    "c_update_each_per_second": one_by_one,
                    "times_c": rate / one_by_one,
                });
                rows.push(row);
            }
        }
        table.extend(rows.iter().map(|rows| medians(rows)));
    }
    Ok(table)
}

/// The log of the options; ten events per user.
pub async fn fill(bench: &Bench, has_users: bool) -> anyhow::Result<Backlog> {
    let options = &bench.backlog;
    let events = options.events.unwrap_or(if bench.quick { 300_000 } else { 1_000_000 });
    let users = has_users.then_some((events / 10).max(1) as u32);
    let (products, hot_percent, seed) = (options.products, options.hot_percent, options.seed);
    Backlog::fill(options.partitions, Shape { events, products, users, hot_percent, ids: options.ids, seed }).await
}

/// A system on the backlog's topic, after `setup`.
pub async fn system(backlog: &Backlog) -> TestSystem {
    let mut system = TestSystem::set_up_on(&backlog.topic).await;
    system.set("RUST_LOG", "info");
    system
}

async fn one(
    bench: &Bench,
    backlog: &Backlog,
    mode: Mode,
    lanes: u16,
    user_likes: Option<&str>,
) -> anyhow::Result<Row> {
    let system = system(backlog).await;
    let mut args = vec!["--dedup", mode.setting(), "--change-dedup"];
    args.extend(user_likes.iter().flat_map(|choice| ["--user-likes", choice]));
    system.setup(&args).await;
    let pool = &system.database.pool;
    checkpoint(pool).await?;
    let workers = bench.backlog.workers;
    let mut held = None;
    if workers > 1 {
        let mut transaction = pool.begin().await?;
        sqlx::query("SELECT FROM kafka_offset FOR UPDATE").execute(&mut *transaction).await?;
        held = Some(transaction);
    }
    let lanes = lanes.to_string();
    let start = || system.start_aggregator(&[("APPLY_LANES", &lanes)]);
    let mut services: Vec<TestService> = std::iter::repeat_with(start).take(workers).collect();
    let before = if let Some(transaction) = held {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND application_name = 'like-aggregator' AND wait_event_type = 'Lock'";
        system.number_becomes(waiting, workers as i64).await;
        transaction.rollback().await?;
        0
    } else {
        // Readiness comes later: only when the consumer is sure of its position.
        folded(&system, &mut services, 1).await?
    };
    let (start, wal, kafka) = (Instant::now(), wal_bytes(&system).await, cpu_seconds(bench.kafka_pid)?);
    let waits = Waits::default();
    let sampled = tokio::spawn(waits.clone().sample(pool.clone()));
    let counted = folded(&system, &mut services, backlog.shape.events as i64).await? - before;
    sampled.abort();
    let seconds = start.elapsed().as_secs_f64();
    let (wal, kafka) = (wal_bytes(&system).await - wal, cpu_seconds(bench.kafka_pid)? - kafka);

    let (mut cpu, mut statements, mut batches, mut dropped) = (0.0, 0.0, 0.0, 0.0);
    let mut peak: f64 = 0.0;
    for service in &services {
        cpu += cpu_seconds(service.process.id())?;
        peak = peak.max(peak_memory_mib(service.process.id())?);
        statements += service.metric("likes_sql_statements_total", "").await;
        batches += service.metric("likes_batch_events_count", "").await;
        dropped += service.metric("likes_events_total", "outcome=\"duplicate\"").await;
    }
    for service in &mut services {
        ensure!(service.stop().await.0.success(), "like-aggregator failed at its end");
    }
    backlog.check(&system.database, mode).await?;
    let size = async |tables: &str| {
        let sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
                   WHERE relkind = 'r' AND relnamespace = 'likes'::regnamespace AND relname ~ ";
        system.number(&format!("{sql}'{tables}'")).await as f64
    };
    let rows = system.number("SELECT count(*) FROM product_like").await as f64;
    let (events, repeats) = (backlog.shape.events as f64, backlog.expected.repeats as f64);
    Ok(row! {
        "mode": mode.name(),
        "lanes": lanes,
        "user_likes": user_likes,
        "per_second": counted as f64 / seconds,
        "cpu_seconds_per_million": cpu / events * 1e6,
        "kafka_cpu_seconds_per_million": kafka / counted as f64 * 1e6,
        "peak_mib": peak,
        "statements_per_10000": statements / events * 1e4,
        "wal_mb_per_100000": wal as f64 / 1e6 / counted as f64 * 1e5,
        "like_bytes_per_row": size("^product_like$").await / rows,
        "history_bytes_per_event": size("^event_handled").await / events,
        "log_bytes_per_event": log_bytes(&bench.kafka_data, &backlog.topic.name)? as f64 / events,
        "events_per_batch": events / batches,
        "percent_of_repeats_dropped": dropped / repeats * 100.0,
        "backends": waits.text(),
    })
}

/// What the aggregators' backends were doing, by samples of their wait events.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<BTreeMap<String, usize>>>);

impl Waits {
    async fn sample(self, pool: PgPool) {
        let sql = "SELECT coalesce(wait_event_type || ' ' || wait_event, 'busy') FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'like-aggregator' AND state <> 'idle'";
        loop {
            tokio::time::sleep(POLL).await;
            let Ok(events) = sqlx::query_scalar::<_, String>(sql).fetch_all(&pool).await else { continue };
            let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            events.into_iter().for_each(|event| *seen.entry(event).or_default() += 1);
        }
    }

    /// The most frequent ones in percent.
    fn text(&self) -> String {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = seen.values().sum();
        let mut seen: Vec<_> = seen.iter().map(|(event, times)| (times * 100 / total.max(1), event)).collect();
        seen.sort_unstable_by(|a, b| b.cmp(a));
        let shares = seen.iter().filter(|(percent, _)| *percent > 0).take(4);
        shares.map(|(percent, event)| format!("{event} {percent} %")).collect::<Vec<_>>().join(", ")
    }
}

/// The size of a topic's log segments.
fn log_bytes(kafka_data: &Path, topic: &str) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for folder in fs::read_dir(kafka_data)? {
        let folder = folder?;
        if folder.file_name().to_string_lossy().rsplit_once('-').is_some_and(|(name, _)| name == topic) {
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                if file.path().extension().is_some_and(|extension| extension == "log") {
                    bytes += file.metadata()?.len();
                }
            }
        }
    }
    Ok(bytes)
}

pub async fn wal_bytes(system: &TestSystem) -> i64 {
    system.number("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").await
}

/// Waits until at least `end` records are folded; returns how many are.
pub async fn folded(system: &TestSystem, services: &mut [TestService], end: i64) -> anyhow::Result<i64> {
    let (mut last, mut since) = (-1, Instant::now());
    loop {
        let folded = system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await;
        if folded >= end {
            return Ok(folded);
        }
        if folded > last {
            (last, since) = (folded, Instant::now());
        }
        ensure!(since.elapsed() < STUCK, "no batch for {STUCK:?}, {folded} of {end} events folded");
        if let Some(status) = services.iter_mut().find_map(|service| service.process.status()) {
            bail!("like-aggregator has exited: {status}");
        }
        tokio::time::sleep(POLL).await;
    }
}
