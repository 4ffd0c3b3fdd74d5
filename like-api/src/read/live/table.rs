//! Which products are watched, by which streams, and the newest event of each. Written by the hub
//! alone, read by all streams: locks are per product and held for a few instructions.
//!
//! Every query is a *look*, numbered from 1. A product keeps the number of the look that changed it
//! last, a stream those of the events that it has sent: older ones can't follow newer ones. What a
//! look for newcomers finds is shown to them alone; streams that were there before get it at the
//! next interval ([`Table::show`]), or a much wanted product would have an event per newcomer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use axum::body::Bytes;
use chrono::{DateTime, Utc};
use futures::task::AtomicWaker;
use like_events::ProductId;
use tokio::sync::{Notify, oneshot};

use crate::read::error::ReadError;
use crate::read::likes::Likes;
use crate::read::pool::Change;

/// What a newcomer waits for: its products' counts have been read, or can't be.
pub type Read = oneshot::Receiver<Result<(), ReadError>>;

/// See the module.
pub struct Table {
    inner: Mutex<Inner>,
    /// Distinct products at most.
    most: usize,
    /// Newcomers are waiting.
    arrived: Notify,
    /// The last look whose changes all streams may send.
    shown: AtomicU64,
}

#[derive(Default)]
struct Inner {
    products: HashMap<ProductId, Arc<Watched>>,
    newcomers: Vec<Newcomer>,
    closed: bool,
}

/// A product that some stream watches.
pub struct Watched {
    product: ProductId,
    /// The look that changed it last; 0: none has read it yet.
    changed: AtomicU64,
    newest: Mutex<Newest>,
    readers: Mutex<Vec<Weak<Reader>>>,
}

#[derive(Default)]
struct Newest {
    count: Option<i64>,
    updated_at: Option<DateTime<Utc>>,
    event: Bytes,
    /// The last change before this one that could be sent to all streams: those who haven't are
    /// sent this one in its place. Without it newcomers could put a busy stream off for ever.
    owed: u64,
}

/// A stream's way to be woken.
#[derive(Default)]
pub struct Reader {
    /// Of the task that sends it.
    pub waker: AtomicWaker,
}

/// A stream that waits for its first counts.
pub struct Newcomer {
    /// What it watches.
    pub watched: Vec<Arc<Watched>>,
    /// Where it waits.
    pub read: oneshot::Sender<Result<(), ReadError>>,
}

/// What a stream watches, in the order asked for, each with the look of the event that it has sent.
pub struct Watching {
    /// How it is woken.
    pub reader: Arc<Reader>,
    /// What it watches.
    pub watched: Box<[(Arc<Watched>, u64)]>,
}

impl Table {
    /// Empty, for at most so many distinct products.
    pub fn new(most: usize) -> Self {
        Self { inner: Mutex::default(), most, arrived: Notify::new(), shown: AtomicU64::new(0) }
    }

    /// Adds a stream, which must wait for [`Read`] before it sends anything. None: too many
    /// products are watched, or the table is closed.
    pub fn watch(&self, products: Vec<ProductId>) -> Option<(Watching, Read)> {
        let reader = Arc::new(Reader::default());
        let (sender, read) = oneshot::channel();
        let mut inner = self.lock();
        let new = products.iter().filter(|product| !inner.products.contains_key(*product)).count();
        if inner.products.len() + new > self.most {
            inner.remove_unwatched();
            let new = products.iter().filter(|product| !inner.products.contains_key(*product)).count();
            if inner.products.len() + new > self.most {
                return None;
            }
        }
        if inner.closed {
            return None;
        }
        let watched: Vec<_> = products.into_iter().map(|product| inner.watched(product)).collect();
        for watched in &watched {
            watched.add(&reader);
        }
        inner.newcomers.push(Newcomer { watched: watched.clone(), read: sender });
        drop(inner);
        self.arrived.notify_one();
        Some((Watching { reader, watched: watched.into_iter().map(|watched| (watched, 0)).collect() }, read))
    }

    /// Waits until somebody may have come.
    pub async fn arrival(&self) {
        self.arrived.notified().await;
    }

    /// Those who have come since the last call, and are still there.
    pub fn newcomers(&self) -> Vec<Newcomer> {
        let mut newcomers = std::mem::take(&mut self.lock().newcomers);
        newcomers.retain(|newcomer| !newcomer.read.is_closed());
        newcomers
    }

    /// All products that some stream watches; others are forgotten.
    pub fn watched(&self) -> Vec<Arc<Watched>> {
        let mut inner = self.lock();
        inner.remove_unwatched();
        inner.products.values().map(Arc::clone).collect()
    }

    /// Whether nobody has watched anything since the last look at everything.
    pub fn is_empty(&self) -> bool {
        self.lock().products.is_empty()
    }

    /// Lets all streams send what was changed by this look or one before it, and wakes those for
    /// which that is something.
    pub fn show(&self, look: u64, watched: &[Arc<Watched>]) {
        // Before anybody is woken: a stream that looks too early is woken again, not too late.
        let before = self.shown.fetch_max(look, Ordering::AcqRel);
        for watched in watched.iter().filter(|watched| watched.changed.load(Ordering::Acquire) > before) {
            watched.wake();
        }
        // Closed meanwhile: those who were being woken here were not there to be woken for that.
        if self.shown() == CLOSED {
            watched.iter().for_each(|watched| watched.wake());
        }
    }

    /// The last look whose changes may be sent.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Acquire)
    }

    /// Ends all streams.
    pub fn close(&self) {
        let watched: Vec<_> = {
            let mut inner = self.lock();
            inner.closed = true;
            inner.newcomers.clear();
            inner.products.values().map(Arc::clone).collect()
        };
        self.shown.store(CLOSED, Ordering::Release);
        watched.iter().for_each(|watched| watched.wake());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

/// [`Table::shown`] of a table that is closed: a look that never comes.
pub const CLOSED: u64 = u64::MAX;

impl Inner {
    fn watched(&mut self, product: ProductId) -> Arc<Watched> {
        let watched = self.products.entry(product.clone()).or_insert_with(|| Arc::new(Watched::new(product)));
        Arc::clone(watched)
    }

    /// Under the lock nobody else can begin to watch one meanwhile.
    fn remove_unwatched(&mut self) {
        self.products.retain(|_, watched| Arc::strong_count(watched) > 1);
    }
}

impl Watched {
    fn new(product: ProductId) -> Self {
        let (changed, newest, readers) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Self { product, changed, newest, readers }
    }

    /// The product.
    pub fn product(&self) -> &ProductId {
        &self.product
    }

    /// What is known of its count. None: nothing yet.
    pub fn known(&self) -> (Option<i64>, Option<DateTime<Utc>>) {
        let newest = lock(&self.newest);
        (newest.count, newest.updated_at)
    }

    /// `look` has found another count, while what was changed until `shown` may be sent to all.
    pub fn change(&self, look: u64, shown: u64, change: &Change) {
        let event = event(&self.product, change);
        let mut newest = lock(&self.newest);
        let before = self.changed.load(Ordering::Acquire);
        let owed = if before <= shown { before } else { newest.owed };
        *newest = Newest { count: Some(change.count), updated_at: change.updated_at, event, owed };
        self.changed.store(look, Ordering::Release);
    }

    /// The newest event, and the look that it is of.
    pub fn newest(&self) -> (u64, Bytes) {
        let newest = lock(&self.newest);
        (self.changed.load(Ordering::Acquire), newest.event.clone())
    }

    /// The same if it is newer than `sent`, and not newer than `shown` or in the place of one that isn't.
    pub fn news(&self, sent: u64, shown: u64) -> Option<(u64, Bytes)> {
        if self.changed.load(Ordering::Acquire) == sent {
            return None;
        }
        let newest = lock(&self.newest);
        let changed = self.changed.load(Ordering::Acquire);
        (changed <= shown || newest.owed > sent).then(|| (changed, newest.event.clone()))
    }

    fn add(&self, reader: &Arc<Reader>) {
        let mut readers = lock(&self.readers);
        // Those who have gone are removed when there is no more room, so that it costs little.
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
            let more = readers.len().max(1);
            readers.reserve_exact(more);
        }
        readers.push(Arc::downgrade(reader));
    }

    fn wake(&self) {
        // Not under the lock: there may be thousands, and some of them run already.
        let mut readers = std::mem::take(&mut *lock(&self.readers));
        readers.retain(|reader| reader.upgrade().map(|reader| reader.waker.wake()).is_some());
        lock(&self.readers).append(&mut readers);
    }
}

/// `data` only: an event without a name is what `EventSource.onmessage` is called for. No `id`:
/// whoever comes back gets the counts as they are then, and has missed nothing.
fn event(product: &ProductId, change: &Change) -> Bytes {
    let likes = Likes::new(product.clone(), change.count, change.updated_at, None);
    let mut event = b"data: ".to_vec();
    serde_json::to_writer(&mut event, &likes).expect("texts and numbers");
    event.extend_from_slice(b"\n\n");
    event.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn products(names: &[&str]) -> Vec<ProductId> {
        names.iter().map(|name| ProductId::parse(name).unwrap()).collect()
    }

    fn change(count: i64) -> Change {
        Change { place: 0, count, updated_at: None }
    }

    #[test]
    fn no_more_products_are_watched_than_allowed_and_those_left_make_room() {
        let table = Table::new(3);
        let two = table.watch(products(&["a", "b"])).unwrap();
        let _three = table.watch(products(&["b", "c"])).unwrap();
        assert!(table.watch(products(&["a", "d"])).is_none());
        let three_more = table.watch(products(&["a", "b", "c"])).unwrap();
        drop((two, three_more));
        drop(table.newcomers());
        assert!(table.watch(products(&["d"])).is_some());
        // That one has gone before its first counts came.
        drop(table.newcomers());
        assert!(table.watch(products(&["e"])).is_some());
    }

    #[test]
    fn readers_who_have_gone_do_not_pile_up() {
        let table = Table::new(1);
        let (stays, _read) = table.watch(products(&["p"])).unwrap();
        for _ in 0..1_000 {
            drop(table.watch(products(&["p"])).unwrap());
            drop(table.newcomers());
        }
        let readers = lock(&stays.watched[0].0.readers);
        assert!(readers.capacity() <= 4, "{}", readers.capacity());
    }

    #[test]
    fn what_a_look_for_newcomers_found_waits_for_the_interval() {
        let table = Table::new(1);
        let (watching, _read) = table.watch(products(&["p"])).unwrap();
        let watched = [Arc::clone(&watching.watched[0].0)];
        watched[0].change(1, 0, &change(1));
        table.show(1, &watched);
        assert_eq!(watched[0].newest().0, 1);
        watched[0].change(2, 1, &change(2));
        assert!(watched[0].news(1, table.shown()).is_none());
        table.show(3, &watched);
        assert_eq!(watched[0].news(1, table.shown()).unwrap().0, 2);
        assert!(watched[0].news(2, table.shown()).is_none());
    }

    #[test]
    fn a_stream_that_is_late_gets_what_newcomers_have_seen_since() {
        let table = Table::new(1);
        let (watching, _read) = table.watch(products(&["p"])).unwrap();
        let watched = [Arc::clone(&watching.watched[0].0)];
        watched[0].change(1, 0, &change(1));
        table.show(1, &watched);
        for look in 2..5 {
            watched[0].change(look, table.shown(), &change(5));
            assert_eq!(watched[0].news(0, table.shown()).unwrap().0, look);
            assert!(watched[0].news(1, table.shown()).is_none(), "{look} is an event of the next interval");
        }
    }

    #[test]
    fn a_closed_table_stays_closed_and_lets_nobody_in() {
        let table = Table::new(1);
        let (_watching, mut read) = table.watch(products(&["p"])).unwrap();
        table.close();
        assert!(read.try_recv().is_err() && table.watch(products(&["p"])).is_none());
        table.show(1, &[]);
        assert_eq!(table.shown(), CLOSED);
    }
}
