//! Drains as rows of figures, and like-aggregator with nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use uuid::Uuid;

use super::{Figures, rounded};
use crate::aggregator::{Aggregator, peak_memory_mib};
use crate::backlog::Backlog;
use crate::database::Database;
use crate::drain::{Place, Plan, measure, set_up};
use crate::figures;

/// A drain; wrong counts are an error.
pub async fn drain(
    place: &Place,
    backlog: &Backlog,
    plan: Plan,
    template: Option<&str>,
) -> anyhow::Result<Vec<Figures>> {
    let m = measure(place, backlog, plan, template).await?;
    ensure!(m.exact, "wrong counts, see above");
    let per = |value: f64, events: f64| rounded(value / m.events as f64 * events);
    Ok(vec![figures! {
        "mode": plan.mode.name(),
        "events": m.events,
        "products": m.products,
        "partitions": m.partitions,
        "workers": m.workers,
        "events_per_second": rounded(m.events_per_second),
        "seconds": rounded(m.seconds),
        "cpu_seconds_per_million": per(m.aggregator_cpu_user + m.aggregator_cpu_system, 1e6),
        "cpu_user_seconds_per_million": per(m.aggregator_cpu_user, 1e6),
        "postgres_cpu_seconds_per_million": m.postgres_cpu.map(|cpu| per(cpu, 1e6)),
        "kafka_cpu_seconds_per_million": m.kafka_cpu.map(|cpu| per(cpu, 1e6)),
        "peak_mib": rounded(m.aggregator_peak_mib),
        "statements_per_10000": rounded(m.statements_per_10000),
        "postgres_statements_per_100000": per(m.work.statements as f64, 1e5),
        "postgres_transactions_per_100000": per(m.work.transactions as f64, 1e5),
        "postgres_rows_per_100000": per(m.work.rows as f64, 1e5),
        "wal_mb_per_100000": per(m.work.wal_bytes as f64 / 1e6, 1e5),
        "events_per_batch": rounded(m.events_per_batch),
        "repeats": m.repeats,
        "repeats_dropped": m.repeats_dropped,
    }])
}

/// Resident memory of a worker that has joined its group and has everything folded.
pub async fn idle(place: &Place, backlog: &Backlog) -> anyhow::Result<Vec<Figures>> {
    let name = format!("idle_{}", Uuid::now_v7().simple());
    let mut database = Database::create(&place.database_url, &name).await?;
    let measured = wait_idle(place, backlog, &mut database).await;
    database.remove().await?;
    Ok(vec![figures! { "aggregator_idle_mib": rounded(measured?) }])
}

async fn wait_idle(place: &Place, backlog: &Backlog, database: &mut Database) -> anyhow::Result<f64> {
    set_up(place, backlog, &database.url)?;
    database.fold_nothing(&backlog.ends).await?;
    let env = [
        ("KAFKA_BOOTSTRAP_SERVERS", &*place.kafka),
        ("KAFKA_TOPIC", &backlog.topic),
        ("KAFKA_GROUP_ID", &database.name.clone()),
        ("DATABASE_URL", &database.url.clone()),
    ];
    let mut aggregator = Aggregator::start(&place.aggregator, &[], &env, &place.out.join("idle.log"))?;
    let start = Instant::now();
    while !aggregator.is_ready() {
        aggregator.check()?;
        ensure!(start.elapsed() < Duration::from_secs(30), "like-aggregator isn't ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let peak = peak_memory_mib(aggregator.pid()).context("/proc")?;
    aggregator.stop()?;
    Ok(peak)
}
