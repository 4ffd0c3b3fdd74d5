//! How long after its 202 a like is in the count: at fixed rates, through both services, for some
//! of the likes, each of which has a product to itself. All of those that aren't seen yet are asked
//! for together, in one request every few milliseconds: asking for each would be a load of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::sender::{self, Connection, Plan, user_header};
use super::{Figures, Lab, Site, percentile, rounded};
use crate::aggregator::{Aggregator, cpu, peak_memory_mib};
use crate::api::{Api, memory_mib};
use crate::figures;

const RATES: [u64; 3] = [500, 2_000, 5_000];
/// Likes a second that are watched.
const WATCHED: u64 = 50;
const PRODUCTS: u64 = 1_000;
const CONNECTIONS: u32 = 128;
/// Between two looks, beside what a look takes.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// As many as one request may ask for.
const IDS: usize = 100;
/// What isn't counted by then is lost, or the machine is far behind.
const GIVE_UP: Duration = Duration::from_secs(20);

/// At each rate.
pub async fn freshness(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let site = Site::create(lab, "freshness").await?;
    let result = measure(lab, &site).await;
    site.remove(result).await
}

async fn measure(lab: &Lab, site: &Site<'_>) -> anyhow::Result<Vec<Figures>> {
    let aggregator = site.aggregator()?;
    let api = site.api().await.context("like-api")?;
    let seconds = |quick, full| Duration::from_secs(if lab.quick { quick } else { full });
    // Until the consumer group has settled and both have seen work.
    at_rate(&api, &aggregator, RATES[0], seconds(1, 3), 0).await?;
    let mut figures = Vec::new();
    for (number, rate) in (1..).zip(RATES) {
        figures.push(at_rate(&api, &aggregator, rate, seconds(4, 20), number).await?);
    }
    Ok(figures)
}

async fn at_rate(
    api: &Api,
    aggregator: &Aggregator,
    rate: u64,
    duration: Duration,
    run: u64,
) -> anyhow::Result<Figures> {
    let plan = Plan { addr: api.addr, rate: rate as f64, duration, connections: CONNECTIONS, latest: None };
    let every = rate / WATCHED;
    let waiting = Arc::new(Waiting::default());
    let like = move |number: u64| {
        let product =
            if number.is_multiple_of(every) { watched(run, number) } else { format!("p{}", number * 7_919 % PRODUCTS) };
        (product, user_header(&format!("u{run}-{number}")))
    };
    let acknowledged = {
        let waiting = Arc::clone(&waiting);
        move |number: u64| {
            if number.is_multiple_of(every) {
                waiting.lock().insert(watched(run, number), Instant::now());
            }
        }
    };
    let used = |pid| cpu(pid).map(|cpu| cpu.user + cpu.system).context("/proc");
    let before = (used(api.pid())?, used(aggregator.pid())?);
    let looking = tokio::spawn(look(api.addr, Arc::clone(&waiting)));
    let sent = sender::send(plan, like, acknowledged).await?;
    let last = Instant::now();
    while !waiting.lock().is_empty() && last.elapsed() < GIVE_UP {
        ensure!(!looking.is_finished(), "the counts can't be read: {:?}", looking.await);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let after = (used(api.pid())?, used(aggregator.pid())?);
    looking.abort();
    let mut seen = std::mem::take(&mut *waiting.seen.lock().expect("nothing panics there"));
    seen.times_ms.sort_by(f64::total_cmp);
    seen.gaps_ms.sort_by(f64::total_cmp);
    let acknowledged = sent.times_ms.len().max(1) as f64;
    Ok(figures! {
        "part": "freshness",
        "load": format!("open model, {rate} likes a second, {PRODUCTS} products"),
        "rate": rate,
        "per_second": rounded(sent.per_second),
        "rate_reached": sent.failed == 0 && sent.per_second > rate as f64 * 0.95,
        "watched": seen.times_ms.len(),
        "never_seen": waiting.lock().len(),
        "fresh_p50_ms": rounded(percentile(&seen.times_ms, 50.0)),
        "fresh_p99_ms": rounded(percentile(&seen.times_ms, 99.0)),
        "fresh_max_ms": rounded(percentile(&seen.times_ms, 100.0)),
        "look_gap_p50_ms": rounded(percentile(&seen.gaps_ms, 50.0)),
        "look_gap_p99_ms": rounded(percentile(&seen.gaps_ms, 99.0)),
        "acknowledged_p50_ms": rounded(sent.percentile(50.0)),
        "acknowledged_p99_ms": rounded(sent.percentile(99.0)),
        "failed": sent.failed,
        "api_cpu_us": rounded((after.0 - before.0) * 1e6 / acknowledged),
        "aggregator_cpu_us": rounded((after.1 - before.1) * 1e6 / acknowledged),
        "api_rss_mib": rounded(memory_mib(api.pid()).context("/proc")?),
        "aggregator_rss_mib": rounded(memory_mib(aggregator.pid()).context("/proc")?),
        "aggregator_peak_mib": rounded(peak_memory_mib(aggregator.pid()).context("/proc")?),
        "seconds": duration.as_secs(),
    })
}

fn watched(run: u64, number: u64) -> String {
    format!("watched-{run}-{number}")
}

/// Likes that are acknowledged and not seen yet, by their product, and those that were.
#[derive(Default)]
struct Waiting {
    since: Mutex<BTreeMap<String, Instant>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// From the 202 to the answer with the count.
    times_ms: Vec<f64>,
    /// From one such answer to the next: a time is too long by this much at most.
    gaps_ms: Vec<f64>,
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.since.lock().expect("nothing panics there")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Likes {
    product_id: String,
    count: i64,
}

/// Looks again and again. Ends with an error only.
async fn look(addr: SocketAddr, waiting: Arc<Waiting>) -> anyhow::Result<()> {
    let mut connection = Connection::open(addr).await?;
    let mut last: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut ids: Vec<(Instant, String)> = waiting.lock().iter().map(|(id, at)| (*at, id.clone())).collect();
        if ids.is_empty() {
            last = None;
            continue;
        }
        // The oldest first: by what they show the others can't be late.
        ids.sort();
        ids.truncate(IDS);
        let list: Vec<&str> = ids.iter().map(|(_, id)| id.as_str()).collect();
        // As a known caller: who isn't one may be told what was so a second ago.
        let line = format!("GET /v1/likes?ids={}", list.join(","));
        let (status, body) = connection.ask(&line, "X-User-Id: watcher\r\n").await?;
        ensure!(status == 200, "GET /v1/likes answers {status}");
        let now = Instant::now();
        let answer: Vec<Likes> = serde_json::from_slice(body)?;
        let (mut since, mut seen) = (waiting.lock(), waiting.seen.lock().expect("nothing panics there"));
        for likes in answer.iter().filter(|likes| likes.count > 0) {
            if let Some(at) = since.remove(&likes.product_id) {
                seen.times_ms.push((now - at).as_secs_f64() * 1e3);
            }
        }
        seen.gaps_ms.extend(last.map(|last| (now - last).as_secs_f64() * 1e3));
        last = Some(now);
    }
}
