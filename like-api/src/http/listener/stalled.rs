//! A connection whose other end takes no bytes any more: what is to be sent would wait, and hold
//! its memory, for as long as that end keeps the connection open. Its writes fail instead.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::{IntCounter, Registry};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// For how long a write may wait, and how many have waited for longer.
#[derive(Clone)]
pub struct StallLimit {
    limit: Duration,
    exceeded: IntCounter,
}

impl StallLimit {
    /// Without a byte taken for `limit`, a connection is closed.
    pub fn new(limit: Duration, registry: &Registry) -> anyhow::Result<Self> {
        let exceeded = IntCounter::new(
            "likes_stalled_connections_total",
            "connections closed because their other end took no bytes for too long: slow readers of streams, mostly",
        )?;
        registry.register(Box::new(exceeded.clone()))?;
        Ok(Self { limit, exceeded })
    }
}

/// See the module.
pub struct Unstalled<S> {
    io: S,
    limit: StallLimit,
    /// There while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    /// A connection.
    pub fn new(io: S, limit: StallLimit) -> Self {
        Self { io, limit, waiting: None }
    }

    /// What a write has come to, if it hasn't waited for too long.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.waiting = None;
            return write;
        }
        let limit = self.limit.limit;
        ready!(self.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
        self.limit.exceeded.inc();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("no bytes were taken for {limit:?}"))))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
