//! Likes over HTTP/1.1. In an open model every like is due at a fixed time, whatever became of those
//! before it, and its latency counts from that time (including the timer's resolution of a
//! millisecond). In a closed loop each connection sends the next like when the last one is answered.
//!
//! reqwest and hyper were looked at: a complete client takes as much of the machine as the service
//! that is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::percentile;

/// A keep-alive connection for one request at a time; it understands what our services respond.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(1024) })
    }

    /// [`Self::exchange`] without a body.
    pub async fn request(&mut self, line: &str, headers: &str) -> anyhow::Result<(u16, &[u8])> {
        self.exchange(line, headers, "").await
    }

    /// Sends a request and returns status and body; `line` is method and path, `headers` each end in
    /// CR LF.
    pub async fn exchange(&mut self, line: &str, headers: &str, body: &str) -> anyhow::Result<(u16, &[u8])> {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n{body}");
        self.stream.write_all(request.as_bytes()).await?;
        self.read.clear();
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = std::str::from_utf8(&self.read[..head])?;
        let status = text.split_whitespace().nth(1).context("no HTTP status")?.parse()?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let end = head + length.context("no content-length")?.parse::<usize>()?;
        while self.read.len() < end {
            self.more().await?;
        }
        Ok((status, &self.read[head..end]))
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection was closed");
        Ok(())
    }
}

/// When likes are sent.
#[derive(Clone, Copy)]
pub enum Load {
    /// As fast as responses come, this many or for this long.
    Closed { likes: u64, duration: Duration },
    /// At a fixed rate per second. A like that is later than `latest` isn't sent, as by a proxy without
    /// a free connection.
    Open { rate: f64, duration: Duration, latest: Duration },
}

/// What to send, and where.
#[derive(Clone, Copy)]
pub struct Plan {
    pub addr: SocketAddr,
    pub load: Load,
    /// The maximum of likes in flight.
    pub connections: u32,
}

/// The outcome.
#[derive(Default)]
pub struct Sent {
    /// 202 responses per second, until the last response.
    pub per_second: f64,
    /// Other responses, and none.
    pub failed: u64,
    /// Those of them that were 503.
    pub shed: u64,
    /// See [`Load::Open`].
    pub unsent: u64,
    /// Milliseconds from when a like was due to its 202, sorted.
    pub times_ms: Vec<f64>,
}

impl Sent {
    /// Milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.times_ms, percent)
    }
}

impl Load {
    /// When the like of this number is due; None after the last one.
    fn due(self, number: u64, start: Instant) -> Option<Instant> {
        match self {
            Self::Closed { likes, duration } => {
                let now = Instant::now();
                (number < likes && now.duration_since(start) < duration).then_some(now)
            }
            Self::Open { rate, duration, .. } => {
                let after = number as f64 / rate;
                (after < duration.as_secs_f64()).then(|| start + Duration::from_secs_f64(after))
            }
        }
    }
}

/// The header that names a user where it is trusted.
pub fn user_header(user: &str) -> String {
    format!("X-User-Id: {user}\r\n")
}

/// Spreads the likes over `products`, so that neighbours in time aren't neighbours in the log.
pub fn product(number: u64, products: u64) -> String {
    format!("p{}", number * 7_919 % products)
}

/// Sends all likes of the plan. `like` returns, for the like's number, the product and the headers of
/// the user (each ends in CR LF); `acknowledged` is called after each 202.
pub async fn send(
    plan: Plan,
    like: impl Fn(u64) -> (String, String) + Send + Sync + 'static,
    acknowledged: impl Fn(u64) + Send + Sync + 'static,
) -> anyhow::Result<Sent> {
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(plan.addr).await?);
    }
    let shared = Arc::new((AtomicU64::new(0), like, acknowledged));
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for mut connection in connections {
        let shared = Arc::clone(&shared);
        senders.spawn(async move {
            let (next, like, acknowledged) = &*shared;
            let mut sent = Sent::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(due) = plan.load.due(number, start) else { return sent };
                if let Load::Open { latest, .. } = plan.load {
                    tokio::time::sleep_until(due.into()).await;
                    if due.elapsed() > latest {
                        sent.unsent += 1;
                        continue;
                    }
                }
                let (product, headers) = like(number);
                match connection.request(&format!("PUT /v1/products/{product}/like"), &headers).await {
                    Ok((202, _)) => {
                        sent.times_ms.push(due.elapsed().as_secs_f64() * 1e3);
                        acknowledged(number);
                    }
                    Ok((status, _)) => {
                        sent.failed += 1;
                        sent.shed += u64::from(status == 503);
                    }
                    Err(_) => {
                        sent.failed += 1;
                        let Ok(new) = Connection::open(plan.addr).await else { return sent };
                        connection = new;
                    }
                }
            }
        });
    }
    let mut total = Sent::default();
    while let Some(sent) = senders.join_next().await {
        let sent = sent?;
        total.times_ms.extend(sent.times_ms);
        total.failed += sent.failed;
        total.shed += sent.shed;
        total.unsent += sent.unsent;
    }
    total.per_second = total.times_ms.len() as f64 / start.elapsed().as_secs_f64();
    total.times_ms.sort_by(f64::total_cmp);
    Ok(total)
}
