//! Load in an open model: every like has a moment at which it is due, whatever became of those
//! before it, and its time is counted from that moment. The timer's own grain of a millisecond is
//! in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::percentile;

/// A connection that asks and waits for the answer: HTTP/1.1, and of it only what our own services
/// answer. A whole client would take as much of the machine as the service under measurement.
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// A new one.
    pub async fn open(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(1024) })
    }

    /// Sends a request; `line` is method and path, `headers` each end in CR LF. Answers status and
    /// body.
    pub async fn ask(&mut self, line: &str, headers: &str) -> anyhow::Result<(u16, &[u8])> {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
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
        let length =
            text.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no content-length")?;
        let end = head + length.parse::<usize>()?;
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

/// What is to be sent.
#[derive(Clone, Copy)]
pub struct Plan {
    /// To whom.
    pub addr: SocketAddr,
    /// Likes a second.
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
    /// As many likes may be on their way at once; more wait, and their time runs.
    pub connections: u32,
    /// A like that is later than this isn't sent, as by a proxy that has no connection left for it.
    pub latest: Option<Duration>,
}

/// What became of it.
#[derive(Default)]
pub struct Sent {
    /// Answers of 202 in a second, until the last answer.
    pub per_second: f64,
    /// Other answers, and none.
    pub failed: u64,
    /// Of them, answers of 503.
    pub shed: u64,
    /// Not sent, see [`Plan::latest`].
    pub unsent: u64,
    /// Milliseconds from being due to the 202, sorted.
    pub times_ms: Vec<f64>,
}

impl Sent {
    /// In milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.times_ms, percent)
    }
}

/// The header of a user where a header is trusted.
pub fn user_header(user: &str) -> String {
    format!("X-User-Id: {user}\r\n")
}

/// Sends all likes of the plan. `like` says by the like's number the product, and the headers that
/// say who likes it, each ending in CR LF; `acknowledged` is told of each 202.
pub async fn send(
    plan: Plan,
    like: impl Fn(u64) -> (String, String) + Send + Sync + 'static,
    acknowledged: impl Fn(u64) + Send + Sync + 'static,
) -> anyhow::Result<Sent> {
    let total = (plan.rate * plan.duration.as_secs_f64()) as u64;
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        connections.push(Connection::open(plan.addr).await?);
    }
    let (next, shared) = (Arc::new(AtomicU64::new(0)), Arc::new((like, acknowledged)));
    let start = Instant::now();
    let mut senders = JoinSet::new();
    for mut connection in connections {
        let (next, shared) = (Arc::clone(&next), Arc::clone(&shared));
        senders.spawn(async move {
            let (mut times, mut failed, mut shed, mut unsent) = (Vec::new(), 0, 0, 0);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return (times, failed, shed, unsent);
                }
                let due = start + Duration::from_secs_f64(number as f64 / plan.rate);
                tokio::time::sleep_until(due.into()).await;
                if plan.latest.is_some_and(|latest| due.elapsed() > latest) {
                    unsent += 1;
                    continue;
                }
                let (product, headers) = (shared.0)(number);
                let line = format!("PUT /v1/products/{product}/like");
                match connection.ask(&line, &headers).await {
                    Ok((202, _)) => {
                        times.push(due.elapsed().as_secs_f64() * 1e3);
                        (shared.1)(number);
                    }
                    Ok((status, _)) => {
                        failed += 1;
                        shed += u64::from(status == 503);
                    }
                    Err(_) => {
                        failed += 1;
                        match Connection::open(plan.addr).await {
                            Ok(new) => connection = new,
                            Err(_) => return (times, failed, shed, unsent),
                        }
                    }
                }
            }
        });
    }
    let mut sent = Sent::default();
    while let Some(joined) = senders.join_next().await {
        let (times, failed, shed, unsent) = joined?;
        sent.times_ms.extend(times);
        sent.failed += failed;
        sent.shed += shed;
        sent.unsent += unsent;
    }
    sent.per_second = sent.times_ms.len() as f64 / start.elapsed().as_secs_f64();
    sent.times_ms.sort_by(f64::total_cmp);
    Ok(sent)
}
