//! A product that streams subscribe to: its newest event, and the streams to wake.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use futures::task::AtomicWaker;
use like_events::ProductId;

use crate::limits::share::Held;
use crate::read::likes::Likes;
use crate::read::lock::lock;
use crate::read::queries::Change;

/// A product with at least one subscription.
pub struct LiveProduct {
    product: ProductId,
    /// The poll that changed it last; 0: not read yet.
    changed: AtomicU64,
    newest: Mutex<Newest>,
    streams: Mutex<Vec<Weak<AtomicWaker>>>,
    /// The last poll whose changes all streams may send: its table's.
    shown: Arc<AtomicU64>,
    /// Of the share of the address that watched it first.
    _share: Held,
}

#[derive(Default)]
struct Newest {
    count: Option<i64>,
    updated_at: Option<DateTime<Utc>>,
    event: Bytes,
    /// The last change before this one that all streams could send. A stream that has not sent it sends
    /// this one instead; otherwise polls for new subscribers could delay that stream without end.
    owed: u64,
}

impl LiveProduct {
    pub fn new(product: ProductId, shown: Arc<AtomicU64>, share: Held) -> Self {
        let (changed, newest, streams) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Self { product, changed, newest, streams, shown, _share: share }
    }

    pub fn id(&self) -> &ProductId {
        &self.product
    }

    /// Returns the last known count and its time. None: not read yet.
    pub fn known(&self) -> (Option<i64>, Option<DateTime<Utc>>) {
        let newest = lock(&self.newest);
        (newest.count, newest.updated_at)
    }

    /// The last poll whose changes all streams may send.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Acquire)
    }

    /// The last poll that changed this product.
    pub fn changed(&self) -> u64 {
        self.changed.load(Ordering::Acquire)
    }

    /// Stores a count that `poll` found. All streams may send changes up to the poll `shown`.
    pub fn change(&self, poll: u64, shown: u64, change: &Change) {
        let event = event(&self.product, change);
        let mut newest = lock(&self.newest);
        let before = self.changed();
        let owed = if before <= shown { before } else { newest.owed };
        *newest = Newest { count: Some(change.count), updated_at: change.updated_at, event, owed };
        self.changed.store(poll, Ordering::Release);
    }

    /// Returns the newest event and its poll.
    pub fn newest(&self) -> (u64, Bytes) {
        let newest = lock(&self.newest);
        (self.changed(), newest.event.clone())
    }

    /// Returns the newest event if it is newer than `sent`, and if it may be shown or replaces an event that may.
    pub fn news(&self, sent: u64) -> Option<(u64, Bytes)> {
        let shown = self.shown();
        if self.changed() == sent {
            return None;
        }
        let newest = lock(&self.newest);
        let changed = self.changed();
        (changed <= shown || newest.owed > sent).then(|| (changed, newest.event.clone()))
    }

    pub fn add(&self, stream: &Arc<AtomicWaker>) {
        let mut streams = lock(&self.streams);
        // Closed streams are removed when the capacity is used up, which keeps the cost low.
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
            let more = streams.len().max(1);
            streams.reserve_exact(more);
        }
        streams.push(Arc::downgrade(stream));
    }

    pub fn wake(&self) {
        // Not under the lock: there may be thousands of streams, and some run at once.
        let mut streams = std::mem::take(&mut *lock(&self.streams));
        streams.retain(|stream| stream.upgrade().map(|stream| stream.wake()).is_some());
        lock(&self.streams).append(&mut streams);
    }
}

/// `data` only: `EventSource.onmessage` is called for events without a name. No `id`: a client that
/// reconnects gets the current counts.
fn event(product: &ProductId, change: &Change) -> Bytes {
    let likes = Likes::new(product.clone(), change.count, change.updated_at, None);
    let mut event = b"data: ".to_vec();
    serde_json::to_writer(&mut event, &likes).expect("texts and numbers");
    event.extend_from_slice(b"\n\n");
    event.into()
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;
    use crate::limits::share::Share;

    fn product() -> LiveProduct {
        let product = LiveProduct::new(
            ProductId::parse("p").unwrap(),
            Arc::new(AtomicU64::new(1)),
            Share::new(1, IntCounter::new("r", "r").unwrap()).take([0, 0, 0, 0].into()).unwrap(),
        );
        product.change(1, 0, &change(1));
        product
    }

    fn change(count: i64) -> Change {
        Change { place: 0, count, updated_at: None }
    }

    #[test]
    fn closed_streams_do_not_pile_up() {
        let (product, open) = (product(), Arc::default());
        product.add(&open);
        for _ in 0..1_000 {
            product.add(&Arc::default());
        }
        let streams = lock(&product.streams);
        assert!(streams.capacity() <= 4, "{}", streams.capacity());
    }

    #[test]
    fn change_for_subscribers_waits_for_the_interval() {
        let product = product();
        assert_eq!(product.newest().0, 1);
        product.change(2, 1, &change(2));
        assert!(product.news(1).is_none());
        product.shown.store(3, Ordering::Release);
        assert_eq!(product.news(1).unwrap().0, 2);
        assert!(product.news(2).is_none());
    }

    #[test]
    fn slow_stream_gets_what_subscribers_got() {
        let product = product();
        for poll in 2..5 {
            product.change(poll, 1, &change(5));
            assert_eq!(product.news(0).unwrap().0, poll);
            assert!(product.news(1).is_none(), "{poll} is an event of the next interval");
        }
    }
}
