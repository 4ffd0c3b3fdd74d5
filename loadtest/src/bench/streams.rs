//! What open streams of live counts cost like-api: queries, processor time and memory, while
//! nothing changes, and while a tenth of the watched products does every interval.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::{Figures, Lab, Site, rounded};
use crate::aggregator::cpu;
use crate::api::{Api, memory_mib};
use crate::figures;

/// Products that somebody watches, and how many of them one stream does: neighbours, so that there
/// are as many different lists as pages of a shop.
const PRODUCTS: usize = 1_000;
const OF_ONE: usize = 10;
/// One product of each list: an event per stream and interval.
const CHANGED: usize = PRODUCTS / OF_ONE;
/// The service's default.
const INTERVAL: Duration = Duration::from_secs(1);
/// What doesn't come by then never will.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Each number of streams with a new process.
pub async fn streams(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let mut figures = Vec::new();
    for streams in if lab.quick { &[1_000][..] } else { &[1_000, 5_000] } {
        let mut site = Site::create(lab, "streams").await?;
        let result = measure(lab, &mut site, *streams).await;
        figures.extend(site.remove(result).await?);
    }
    Ok(figures)
}

async fn measure(lab: &Lab, site: &mut Site<'_>, streams: usize) -> anyhow::Result<Vec<Figures>> {
    let products: Vec<String> = (0..PRODUCTS).map(|number| format!("product-{number:06}")).collect();
    site.database().count(&products).await?;
    let api = site.api().await.context("like-api")?;
    let idle = memory_mib(api.pid()).context("/proc")?;
    let started = Instant::now();
    let readers = Readers::open(api.addr, streams, &products).await?;
    let opened = started.elapsed().as_secs_f64();
    let [at_opening] = api.metrics([&series("newcomers")])?;

    let mut figures = Vec::new();
    for changed in [0, CHANGED] {
        site.database().settle().await?;
        let before = Mark::set(&api, &readers)?;
        let mut ticks = interval(INTERVAL);
        for _ in 0..(if lab.quick { 5 } else { 20 }) {
            ticks.tick().await;
            let changed: Vec<_> = products.iter().step_by(OF_ONE).take(changed).cloned().collect();
            if !changed.is_empty() {
                site.database().count(&changed).await?;
            }
        }
        ticks.tick().await;
        let after = Mark::set(&api, &readers)?;
        let memory = memory_mib(api.pid()).context("/proc")?;
        let [open, watched] = api.metrics(["likes_open_streams", "likes_watched_products"])?;
        ensure!(open as usize == streams, "only {open} of {streams} streams are open still");
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let a_second = |of: fn(&Mark) -> f64| rounded((of(&after) - of(&before)) / seconds);
        // By the server's own count, where it keeps one.
        let statements = site.database().statements(i64::MAX).await?;
        let query = statements.iter().find(|statement| statement.text.contains("known_count"));
        figures.push(figures! {
            "part": "streams",
            "streams": streams,
            "products": watched,
            "changes_per_second": changed,
            "sent_per_second": a_second(|mark| mark.events),
            "queries_per_second": a_second(|mark| mark.queries),
            "statements_per_second": query.map(|query| rounded(query.calls as f64 / seconds)),
            "query_ms": query.map(|query| rounded(query.ms / query.calls as f64)),
            "api_cpu_percent": a_second(|mark| mark.cpu * 100.0),
            "api_idle_mib": rounded(idle),
            "api_mib": rounded(memory),
            "kib_per_stream": rounded((memory - idle) * 1024.0 / streams as f64),
            "opened_in_seconds": rounded(opened),
            "queries_at_opening": at_opening,
            "seconds": rounded(seconds),
        });
    }
    Ok(figures)
}

fn series(reason: &str) -> String {
    format!("likes_stream_queries_total{{reason=\"{reason}\"}}")
}

/// What is counted, at one moment.
struct Mark {
    at: Instant,
    events: f64,
    queries: f64,
    cpu: f64,
}

impl Mark {
    fn set(api: &Api, readers: &Readers) -> anyhow::Result<Self> {
        let [at_interval, newcomers] = api.metrics([&series("interval"), &series("newcomers")])?;
        let cpu = cpu(api.pid()).context("/proc")?;
        Ok(Self {
            at: Instant::now(),
            events: readers.events.load(Ordering::Relaxed) as f64,
            queries: at_interval + newcomers,
            cpu: cpu.user + cpu.system,
        })
    }
}

/// The other ends of the streams; closed with the value.
struct Readers {
    /// How many events they have had.
    events: Arc<AtomicU64>,
    _reading: JoinSet<()>,
}

impl Readers {
    /// Opens them all at once, and waits until each has its first counts.
    async fn open(addr: SocketAddr, streams: usize, products: &[String]) -> anyhow::Result<Self> {
        let events = Arc::<AtomicU64>::default();
        let mut reading = JoinSet::new();
        for stream in 0..streams {
            let from = stream * OF_ONE % PRODUCTS;
            let head = format!(
                "GET /v1/likes/stream?ids={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                products[from..from + OF_ONE].join(",")
            );
            let events = Arc::clone(&events);
            reading.spawn(async move {
                // A stream that ends shows in the service's own number of open ones.
                let _ = read(addr, &head, &events).await;
            });
        }
        let (started, all) = (Instant::now(), (streams * OF_ONE) as u64);
        while events.load(Ordering::Relaxed) < all {
            ensure!(started.elapsed() < GIVE_UP, "not all of {streams} streams have begun within {GIVE_UP:?}");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Self { events, _reading: reading })
    }
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
        // Each event is one object, and there is none within another.
        let begun: usize = bytes[..length].iter().map(|byte| usize::from(*byte == b'{')).sum();
        events.fetch_add(begun as u64, Ordering::Relaxed);
    }
}
