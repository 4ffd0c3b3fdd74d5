//! How long a connection may take to send a request's head. hyper has one timer for it, which also
//! runs while nothing is asked at all: as long as a gateway wants to keep an idle connection, which
//! is far too long for half a head. So what hyper reads is watched here: from the first byte of a
//! head the time is short. What is written, and how slowly that is read, is not this file's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// From a head's first byte to its end, and from the connection to the end of its first head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is doing.
#[derive(Clone)]
pub struct Phase(Arc<AtomicU8>);

/// A request is being answered, or none has begun.
const BETWEEN: u8 = 0;
/// A head has begun.
const HEAD: u8 = 1;
/// A request is being handled: what is read now is its body or the next head.
const HANDLING: u8 = 2;

impl Phase {
    /// Of a new connection, whose first head is due.
    pub fn new() -> Self {
        Self(Arc::new(AtomicU8::new(HEAD)))
    }

    /// A head was complete.
    pub fn handling(&self) {
        self.0.store(HANDLING, Ordering::Relaxed);
    }

    /// Its request was handled.
    pub fn handled(&self) {
        self.0.store(BETWEEN, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// A stream on which a read fails when a head takes too long.
pub struct Patient<S> {
    stream: S,
    phase: Phase,
    head_began: Instant,
    /// Made only when there is something to wait for: nearly every head comes in one piece.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Of a new connection.
    pub fn new(stream: S, phase: Phase) -> Self {
        Self { stream, phase, head_began: Instant::now(), timer: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        match &read {
            Poll::Ready(_) => {
                if buffer.filled().len() > before && this.phase.is(BETWEEN) {
                    this.phase.0.store(HEAD, Ordering::Relaxed);
                    this.head_began = Instant::now();
                    this.timer = None;
                }
            }
            Poll::Pending if this.phase.is(HEAD) => {
                let until = this.head_began + HEAD_TIMEOUT;
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head took too long")));
                }
            }
            Poll::Pending => this.timer = None,
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
