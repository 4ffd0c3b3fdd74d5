//! One stream: the present counts, then changes, and a sign of life when there are none.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep};

use super::metrics::Slot;
use super::table::{CLOSED, Table, Watching};

/// What a reader waits before it comes back, in milliseconds: a time of its own out of these, so
/// that those whom a restart has sent away don't come back at the same moment.
const RETRY_MS: std::ops::Range<u64> = 2_000..6_000;
/// A comment, by the rules of event streams.
const SIGN_OF_LIFE: Bytes = Bytes::from_static(b":\n\n");

/// See the module. The size is what thousands of them cost.
pub struct LiveCounts {
    table: Arc<Table>,
    watching: Watching,
    begun: bool,
    heartbeat: Duration,
    silence: Pin<Box<Sleep>>,
    _slot: Slot,
}

impl LiveCounts {
    /// Of products that have been read.
    pub(super) fn new(table: Arc<Table>, watching: Watching, heartbeat: Duration, slot: Slot) -> Self {
        Self { table, watching, begun: false, heartbeat, silence: Box::pin(sleep(heartbeat)), _slot: slot }
    }

    /// All counts, in the order asked for.
    fn present(&mut self) -> Bytes {
        let retry = RETRY_MS.start + RandomState::new().hash_one(0) % (RETRY_MS.end - RETRY_MS.start);
        let mut bytes = format!("retry: {retry}\n").into_bytes();
        for (watched, sent) in &mut self.watching.watched {
            let event;
            (*sent, event) = watched.newest();
            bytes.extend_from_slice(&event);
        }
        bytes.into()
    }

    /// What has changed since, in the same order; empty: nothing.
    fn news(&mut self, shown: u64) -> Bytes {
        let (mut first, mut all) = (Bytes::new(), Vec::new());
        for (watched, sent) in &mut self.watching.watched {
            let Some((changed, event)) = watched.news(*sent, shown) else { continue };
            *sent = changed;
            // One alone, as it mostly is, is shared with all who watch that product.
            if first.is_empty() {
                first = event;
                continue;
            }
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&event);
        }
        if all.is_empty() { first } else { all.into() }
    }

    fn send(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.silence.as_mut().reset(Instant::now() + self.heartbeat);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Body for LiveCounts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // First of all, so that what happens from here on wakes us.
        self.watching.reader.waker.register(cx.waker());
        let shown = self.table.shown();
        if shown == CLOSED {
            return Poll::Ready(None);
        }
        if !self.begun {
            self.begun = true;
            let present = self.present();
            return self.send(present);
        }
        let news = self.news(shown);
        if !news.is_empty() {
            return self.send(news);
        }
        ready!(self.silence.as_mut().poll(cx));
        self.send(SIGN_OF_LIFE)
    }
}
