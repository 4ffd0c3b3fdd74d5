//! Read and write timeouts of a connection.
//!
//! hyper has one timer for a request's head, which also runs on an idle connection: as long as a
//! gateway keeps idle connections, which is far too long for half a head. Here the time from a head's
//! first byte to its end is limited. A write that makes no progress would hold its buffers for as long
//! as the client keeps the connection open; here it fails.
//!
//! `tokio-io-timeout` isn't used: its read timeout doesn't know which bytes belong to a head.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use like_common::metrics::add;
use prometheus::{IntCounter, Registry};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::idle::Phase;

/// From a head's first byte to its end, and from the connection to the end of its first head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The write timeout, and the number of connections closed by it.
#[derive(Clone)]
pub struct WriteTimeout {
    limit: Duration,
    exceeded: IntCounter,
}

impl WriteTimeout {
    /// Closes a connection to which no byte could be written for `limit`.
    pub fn new(limit: Duration, registry: &Registry) -> Self {
        let exceeded = IntCounter::new(
            "likes_stalled_connections_total",
            "connections closed because the client read nothing for too long: slow readers of streams, mostly",
        );
        Self { limit, exceeded: add(registry, exceeded) }
    }
}

pub struct Timeouts<S> {
    io: S,
    phase: Phase,
    head_began: Instant,
    /// Created only when a read has to wait: nearly every head arrives in one piece.
    head_timer: Option<Pin<Box<Sleep>>>,
    write: WriteTimeout,
    /// Present while a write waits.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Timeouts<S> {
    pub fn new(io: S, phase: Phase, write: WriteTimeout) -> Self {
        Self { io, phase, head_began: Instant::now(), head_timer: None, write, write_timer: None }
    }

    /// Returns the result of a write, or an error once writes have waited for too long.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            if self.write_timer.take().is_some() {
                self.phase.writing(false);
            }
            return write;
        }
        self.phase.writing(true);
        let limit = self.write.limit;
        ready!(self.write_timer.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
        self.write.exceeded.inc();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("no bytes were taken for {limit:?}"))))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timeouts<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buffer);
        match &read {
            Poll::Ready(_) => {
                if buffer.filled().len() > before && this.phase.read() {
                    this.head_began = Instant::now();
                    this.head_timer = None;
                }
            }
            Poll::Pending if this.phase.in_head() => {
                let until = this.head_began + HEAD_TIMEOUT;
                let timer = this.head_timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head took too long")));
                }
            }
            Poll::Pending => this.head_timer = None,
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timeouts<S> {
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
