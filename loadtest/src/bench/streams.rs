//! What open streams of live counts cost like-api in queries, processor time and memory: while nothing
//! changes, and while a tenth of the watched products changes every second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use like_testkit::{TestService, TestSystem, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::{Bench, Row, address, rounded, system};
use crate::row;
use crate::usage::{cpu_seconds, memory_mib};

/// Watched products, and how many of them each stream watches: neighbours, like pages of a shop.
const PRODUCTS: usize = 1_000;
const PER_STREAM: usize = 10;
/// One product of each list changes: an event per stream and interval.
const CHANGED: usize = PRODUCTS / PER_STREAM;
/// The service's default.
const INTERVAL: Duration = Duration::from_secs(1);

/// Each number of streams with a new process.
pub async fn streams(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for streams in if bench.quick { &[1_000][..] } else { &[1_000, 5_000] } {
        rows.extend(measure(bench, *streams).await?);
    }
    Ok(rows)
}

async fn measure(bench: &Bench, streams: usize) -> anyhow::Result<Vec<Row>> {
    let system = system().await;
    let products: Vec<String> = (0..PRODUCTS).map(|number| format!("product-{number:06}")).collect();
    count(&system, &products).await?;
    let api = system.api(&[]).await;
    let pid = api.process.id();
    let idle = memory_mib(pid)?;
    let (events, _open) = open(address(&api)?, streams, &products).await;
    let marks =
        async || anyhow::Ok((Instant::now(), events.load(Ordering::Relaxed), queries(&api).await, cpu_seconds(pid)?));

    let mut rows = Vec::new();
    for changed in [0, CHANGED] {
        let before = marks().await?;
        let mut ticks = interval(INTERVAL);
        for _ in 0..(if bench.quick { 5 } else { 20 }) {
            ticks.tick().await;
            let changed: Vec<_> = products.iter().step_by(PER_STREAM).take(changed).cloned().collect();
            count(&system, &changed).await?;
        }
        ticks.tick().await;
        let after = marks().await?;
        let still_open = api.metric("likes_open_streams", "").await as usize;
        ensure!(still_open == streams, "only {still_open} of {streams} streams are still open");
        let seconds = (after.0 - before.0).as_secs_f64();
        let memory = memory_mib(pid)?;
        rows.push(row! {
            "streams": streams,
            "changes_per_second": changed,
            "sent_per_second": rounded((after.1 - before.1) as f64 / seconds),
            "queries_per_second": rounded((after.2 - before.2) / seconds),
            "api_cpu_percent": rounded((after.3 - before.3) / seconds * 100.0),
            "api_mib": rounded(memory),
            "kib_per_stream": rounded((memory - idle) * 1024.0 / streams as f64),
        });
    }
    Ok(rows)
}

async fn queries(api: &TestService) -> f64 {
    api.metric("likes_stream_queries_total", "").await
}

/// Adds one to the counts of these products, as a batch does.
async fn count(system: &TestSystem, products: &[String]) -> anyhow::Result<()> {
    let sql = "INSERT INTO product_like_count AS old (product_id, like_count, delta_count, updated_at)
               SELECT id, 1, 1, now() FROM unnest($1::text[]) id
               ON CONFLICT (product_id) DO UPDATE
               SET like_count = old.like_count + 1, delta_count = old.delta_count + 1, updated_at = now()";
    sqlx::query(sql).bind(products).execute(&system.database.pool).await?;
    Ok(())
}

/// Opens all streams at once and waits until each has its first counts. Returns the number of events
/// so far; the streams are open as long as the tasks.
async fn open(addr: SocketAddr, streams: usize, products: &[String]) -> (Arc<AtomicU64>, JoinSet<()>) {
    let (events, mut tasks) = (Arc::<AtomicU64>::default(), JoinSet::new());
    for stream in 0..streams {
        let from = stream * PER_STREAM % PRODUCTS;
        let ids = products[from..from + PER_STREAM].join(",");
        let head = format!("GET /v1/likes/stream?ids={ids} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let events = Arc::clone(&events);
        tasks.spawn(async move {
            // A stream that ends shows in the service's own number of open ones.
            let _ = read(addr, &head, &events).await;
        });
    }
    let all = (streams * PER_STREAM) as u64;
    let begun = async || (events.load(Ordering::Relaxed) >= all).then_some(());
    eventually("all streams have their first counts", begun).await;
    (events, tasks)
}

async fn read(addr: SocketAddr, head: &str, events: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(head.as_bytes()).await?;
    let mut bytes = [0; 2048];
    loop {
        let length = stream.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        // Each event is one JSON object without others in it.
        let begun: usize = bytes[..length].iter().map(|byte| usize::from(*byte == b'{')).sum();
        events.fetch_add(begun as u64, Ordering::Relaxed);
    }
}
