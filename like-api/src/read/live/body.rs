//! The body of one stream: the current counts, then changes, and heartbeats between them.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use super::product::LiveProduct;
use super::table::CLOSED;
use crate::limits::share::Held;
use crate::metrics::Counted;

/// The client's pause before it reconnects, in milliseconds: random, so that clients don't all
/// reconnect at the same moment after a restart.
const RETRY_MS: std::ops::Range<u64> = 2_000..6_000;
/// A comment of an event stream.
const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// One open stream out of `MAX_STREAMS` and of its address's share.
pub(super) type Slot = (OwnedSemaphorePermit, Held, Counted);

/// The products of a stream, in the order of its request, each with the poll of the last event sent.
pub struct Subscription {
    pub waker: Arc<AtomicWaker>,
    pub products: Box<[(Arc<LiveProduct>, u64)]>,
}

impl Subscription {
    fn is_closed(&self) -> bool {
        self.products.iter().any(|(product, _)| product.shown() == CLOSED)
    }
}

/// One stream. Keep it small: there are thousands of them.
pub struct LiveCounts {
    subscription: Subscription,
    begun: bool,
    heartbeat: Duration,
    /// Ends at the next heartbeat, or with the stream.
    silence: Pin<Box<Sleep>>,
    /// When the client has to reconnect.
    ends: Instant,
    _slot: Slot,
}

impl LiveCounts {
    /// Creates the body, once its products were read.
    pub(super) fn new(subscription: Subscription, heartbeat: Duration, ends: Instant, slot: Slot) -> Self {
        Self { subscription, begun: false, heartbeat, silence: Box::pin(sleep(heartbeat)), ends, _slot: slot }
    }

    /// Returns all counts, in the order of the request.
    fn present(&mut self) -> Bytes {
        let retry = RETRY_MS.start + random(RETRY_MS.end - RETRY_MS.start);
        let mut bytes = format!("retry: {retry}\n").into_bytes();
        for (product, sent) in &mut self.subscription.products {
            let event;
            (*sent, event) = product.newest();
            bytes.extend_from_slice(&event);
        }
        bytes.into()
    }

    /// Returns the changes since the last event, in the same order.
    fn news(&mut self) -> Bytes {
        let (mut first, mut all) = (Bytes::new(), Vec::new());
        for (product, sent) in &mut self.subscription.products {
            let Some((changed, event)) = product.news(*sent) else { continue };
            *sent = changed;
            // A single event, the usual case, is shared by all streams of that product.
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
        self.silence.as_mut().reset((Instant::now() + self.heartbeat).min(self.ends));
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// Returns a random number below `limit`.
fn random(limit: u64) -> u64 {
    RandomState::new().hash_one(0) % limit.max(1)
}

/// Returns a duration less up to a quarter of it, at random.
pub(super) fn less_a_quarter(duration: Duration) -> Duration {
    duration.saturating_sub(Duration::from_millis(random(duration.as_millis() as u64 / 4)))
}

impl Body for LiveCounts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // First, so that any change from here on wakes this task.
        self.subscription.waker.register(cx.waker());
        if self.subscription.is_closed() || (self.begun && self.ends <= Instant::now()) {
            return Poll::Ready(None);
        }
        if !self.begun {
            self.begun = true;
            let present = self.present();
            return self.send(present);
        }
        let news = self.news();
        if !news.is_empty() {
            return self.send(news);
        }
        ready!(self.silence.as_mut().poll(cx));
        if self.ends <= Instant::now() {
            return Poll::Ready(None);
        }
        self.send(HEARTBEAT)
    }
}
