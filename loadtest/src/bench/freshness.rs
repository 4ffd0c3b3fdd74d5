//! The time from a like's 202 to the first read that counts it, at fixed rates, through both services.
//! Some likes are watched; each has its own product. One request every few milliseconds reads the
//! oldest that aren't counted yet: a request for each would be a load of its own. Beside that, one user
//! likes and waits for the receipt, again and again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use like_testkit::{TestService, TestSystem};
use serde::Deserialize;

use super::drain::wal_bytes;
use super::sender::{Connection, Load, Plan, product, send, user_header};
use super::{Bench, Row, address, percentile, rounded, seconds, system};
use crate::row;
use crate::usage::{cpu_seconds, memory_mib, peak_memory_mib};

/// At the lowest rate each like finds an idle system.
const RATES: [u64; 4] = [1, 500, 2_000, 5_000];
/// Watched likes per second, at most.
const WATCHED: u64 = 50;
/// The pauses of the user who waits for receipts are between these, in milliseconds. Equal ones would keep in step with
/// the batches.
const CLICK_EVERY: [u64; 2] = [700, 1_300];
const PRODUCTS: u64 = 1_000;
const CONNECTIONS: u32 = 128;
/// The pause between two reads.
const READ_EVERY: Duration = Duration::from_millis(3);
/// The maximum of ids in one request.
const IDS: usize = 100;
/// A like that isn't counted by then is lost, or the machine is far behind.
const GIVE_UP: Duration = Duration::from_secs(20);

/// A row for each rate.
pub async fn freshness(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let system = system().await;
    let aggregator = system.aggregator(&[]).await;
    let api = system.api(&[]).await;
    // Until the consumer group has settled and both have worked.
    at_rate(&system, &api, &aggregator, RATES[1], seconds(bench, 1, 3), 0).await?;
    let mut rows = Vec::new();
    for (number, rate) in (1..).zip(RATES) {
        rows.push(at_rate(&system, &api, &aggregator, rate, seconds(bench, 10, 30), number).await?);
    }
    Ok(rows)
}

async fn at_rate(
    system: &TestSystem,
    api: &TestService,
    aggregator: &TestService,
    rate: u64,
    duration: Duration,
    run: u64,
) -> anyhow::Result<Row> {
    let addr = address(api)?;
    let every = (rate / WATCHED).max(1);
    let watched = move |number: u64| number.is_multiple_of(every).then(|| format!("watched-{run}-{number}"));
    let waiting = Arc::new(Waiting::default());
    let like = move |number: u64| {
        let product = watched(number).unwrap_or_else(|| product(number, PRODUCTS));
        (product, user_header(&format!("u{run}-{number}")))
    };
    let acknowledged = {
        let waiting = Arc::clone(&waiting);
        move |number: u64| {
            if let Some(product) = watched(number) {
                waiting.since().insert(product, Instant::now());
            }
        }
    };
    let processes = [api.process.id(), aggregator.process.id()];
    let cpu = || anyhow::Ok([cpu_seconds(processes[0])?, cpu_seconds(processes[1])?]);
    let before = cpu()?;
    let statements = async || aggregator.metric("likes_sql_statements_total", "").await;
    let (statements_before, wal_before) = (statements().await, wal_bytes(system).await);
    let reading = tokio::spawn(read(addr, Arc::clone(&waiting)));
    let receipts = Arc::<Mutex<Vec<f64>>>::default();
    let clicking = tokio::spawn(click_and_wait(addr, run, Arc::clone(&receipts)));
    let load = Load::Open { rate: rate as f64, duration, latest: Duration::MAX };
    let sent = send(Plan { addr, load, connections: CONNECTIONS }, like, acknowledged).await?;
    let last = Instant::now();
    while !waiting.since().is_empty() && last.elapsed() < GIVE_UP {
        ensure!(!reading.is_finished(), "the counts can't be read: {:?}", reading.await);
        tokio::time::sleep(READ_EVERY).await;
    }
    let after = cpu()?;
    reading.abort();
    clicking.abort();
    let mut receipts = std::mem::take(&mut *receipts.lock().unwrap_or_else(PoisonError::into_inner));
    receipts.sort_by(f64::total_cmp);
    ensure!(!receipts.is_empty(), "no receipt was answered");
    let likes = (sent.times_ms.len() + receipts.len()) as f64;
    let (statements, wal) = (statements().await - statements_before, wal_bytes(system).await - wal_before);
    let mut times = std::mem::take(&mut *waiting.times_ms.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_by(f64::total_cmp);
    ensure!(sent.failed == 0 && sent.per_second > rate as f64 * 0.95, "only {} likes/s", sent.per_second);
    let cpu_us = |number: usize| rounded((after[number] - before[number]) * 1e6 / sent.times_ms.len() as f64);
    Ok(row! {
        "likes_per_second": rate,
        "watched": times.len(),
        "never_counted": waiting.since().len(),
        "counted_p50_ms": rounded(percentile(&times, 50.0)),
        "counted_p99_ms": rounded(percentile(&times, 99.0)),
        "counted_max_ms": rounded(percentile(&times, 100.0)),
        "receipt_p50_ms": rounded(percentile(&receipts, 50.0)),
        "receipt_p99_ms": rounded(percentile(&receipts, 99.0)),
        "acknowledged_p50_ms": rounded(sent.percentile(50.0)),
        "acknowledged_p99_ms": rounded(sent.percentile(99.0)),
        "api_cpu_us": cpu_us(0),
        "aggregator_cpu_us": cpu_us(1),
        "statements_per_1000": rounded(statements / likes * 1e3),
        "wal_kb_per_1000": rounded(wal as f64 / likes),
        "api_mib": rounded(memory_mib(processes[0])?),
        "aggregator_peak_mib": rounded(peak_memory_mib(processes[1])?),
    })
}

/// Likes products of its own and waits for each receipt; keeps the times from the 202 to `counted`.
async fn click_and_wait(addr: SocketAddr, run: u64, times_ms: Arc<Mutex<Vec<f64>>>) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr).await?;
    for number in 0u64.. {
        let [least, most] = CLICK_EVERY;
        tokio::time::sleep(Duration::from_millis(least + number * 37 % (most - least))).await;
        let line = format!("PUT /v1/products/clicked-{run}-{number}/like");
        let (status, body) = connection.request(&line, &user_header("clicker")).await?;
        ensure!(status == 202, "{line}: {status}");
        let start = Instant::now();
        let receipt = serde_json::from_slice::<serde_json::Value>(body)?["receipt"].as_str().unwrap_or("").to_owned();
        let wait = format!("{}Prefer: wait=10\r\n", user_header("clicker"));
        let (status, body) = connection.request(&format!("GET /v1/receipts/{receipt}"), &wait).await?;
        let counted = serde_json::from_slice::<serde_json::Value>(body)?["status"] == "counted";
        ensure!(status == 200 && counted, "{receipt}: {status}");
        times_ms.lock().unwrap_or_else(PoisonError::into_inner).push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Acknowledged likes that aren't counted yet, by their product, and the times of those that are.
#[derive(Default)]
struct Waiting {
    since: Mutex<BTreeMap<String, Instant>>,
    times_ms: Mutex<Vec<f64>>,
}

impl Waiting {
    fn since(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Likes {
    product_id: String,
    count: i64,
}

/// Reads counts until it is aborted.
async fn read(addr: SocketAddr, waiting: Arc<Waiting>) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr).await?;
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let mut oldest: Vec<_> = waiting.since().iter().map(|(id, since)| (*since, id.clone())).collect();
        if oldest.is_empty() {
            continue;
        }
        oldest.sort();
        let ids: Vec<&str> = oldest.iter().take(IDS).map(|(_, id)| id.as_str()).collect();
        // As a known user: a count for anonymous callers may be a second old.
        let line = format!("GET /v1/likes?ids={}", ids.join(","));
        let (status, body) = connection.request(&line, &user_header("reader")).await?;
        ensure!(status == 200, "GET /v1/likes: {status}");
        let now = Instant::now();
        let likes: Vec<Likes> = serde_json::from_slice(body)?;
        let mut since = waiting.since();
        let counted = likes.iter().filter(|likes| likes.count > 0);
        let times = counted.filter_map(|likes| Some((now - since.remove(&likes.product_id)?).as_secs_f64() * 1e3));
        waiting.times_ms.lock().unwrap_or_else(PoisonError::into_inner).extend(times);
    }
}
