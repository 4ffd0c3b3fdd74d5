//! The subscriptions of all streams to the products of one database. Its hub alone writes events, all
//! streams read them: locks are per product and held for a few instructions.
//!
//! Polls are numbered from 1. A product keeps the number of the poll that changed it last, a stream the
//! numbers of the events that it has sent, so that an older event never follows a newer one. What a
//! poll for new subscribers finds is sent to them alone. Other streams send it at the next interval
//! ([`Table::show`]), or a popular product would have an event per subscriber.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::task::AtomicWaker;
use like_events::ProductId;
use tokio::sync::{Notify, oneshot};

use super::product::LiveProduct;
use crate::limits::share::{Held, Share};
use crate::read::error::ReadError;
use crate::read::lock::lock;

/// Completes when the products' counts were read, or can't be.
pub type FirstRead = oneshot::Receiver<Result<(), ReadError>>;

pub struct Table {
    inner: Mutex<Inner>,
    /// Most distinct products.
    most: usize,
    /// Of each address, in the products that it watched first.
    share: Arc<Share>,
    /// There are new subscribers.
    subscribed: Notify,
    /// The last poll whose changes all streams may send.
    shown: Arc<AtomicU64>,
}

#[derive(Default)]
struct Inner {
    products: HashMap<ProductId, Arc<LiveProduct>>,
    subscribers: Vec<Subscriber>,
    closed: bool,
}

/// Why a stream can't subscribe.
#[derive(Debug)]
pub enum Refused {
    /// There are too many products, or the table is closed.
    Full,
    /// The client's address watches its share of products.
    OverShare,
}

/// A stream that waits for its first counts.
pub struct Subscriber {
    pub products: Vec<Arc<LiveProduct>>,
    pub read: oneshot::Sender<Result<(), ReadError>>,
}

impl Table {
    /// Creates an empty table for at most so many distinct products, and a share of them per address.
    pub fn new(most: usize, share: Arc<Share>) -> Self {
        Self { inner: Mutex::default(), most, share, subscribed: Notify::new(), shown: Arc::default() }
    }

    /// Adds products of a client's stream, which must wait for their [`FirstRead`] before it sends anything. If they are
    /// refused, [`Table::forget_unused`] may make room.
    pub fn subscribe(
        &self,
        products: &[ProductId],
        stream: &Arc<AtomicWaker>,
        client: IpAddr,
    ) -> Result<(Vec<Arc<LiveProduct>>, FirstRead), Refused> {
        let (sender, read) = oneshot::channel();
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(Refused::Full);
        }
        let mut shares = self.shares(&inner, products, client)?.into_iter();
        let live = |product| inner.product(product, &self.shown, &mut shares);
        let products: Vec<_> = products.iter().filter_map(live).collect();
        for product in &products {
            product.add(stream);
        }
        inner.subscribers.push(Subscriber { products: products.clone(), read: sender });
        drop(inner);
        self.subscribed.notify_one();
        Ok((products, read))
    }

    /// Takes a share for each new product.
    fn shares(&self, inner: &Inner, products: &[ProductId], client: IpAddr) -> Result<Vec<Held>, Refused> {
        let new = products.iter().filter(|product| !inner.products.contains_key(*product)).count();
        if inner.products.len() + new > self.most {
            return Err(Refused::Full);
        }
        (0..new).map(|_| self.share.try_take(client)).collect::<Option<_>>().ok_or(Refused::OverShare)
    }

    /// Waits until there may be new subscribers.
    pub async fn subscribed(&self) {
        self.subscribed.notified().await;
    }

    /// Takes the subscribers since the last call whose streams are still open.
    pub fn take_subscribers(&self) -> Vec<Subscriber> {
        let mut subscribers = std::mem::take(&mut lock(&self.inner).subscribers);
        subscribers.retain(|subscriber| !subscriber.read.is_closed());
        subscribers
    }

    /// Returns all products with a subscription, and forgets the others.
    pub fn products(&self) -> Vec<Arc<LiveProduct>> {
        let mut inner = lock(&self.inner);
        inner.remove_unused();
        inner.products.values().map(Arc::clone).collect()
    }

    /// Forgets products without a subscription, and their shares.
    pub fn forget_unused(&self) {
        lock(&self.inner).remove_unused();
    }

    /// Whether there was no subscription at the last call of [`Table::products`] or since.
    pub fn is_empty(&self) -> bool {
        lock(&self.inner).products.is_empty()
    }

    /// Lets all streams send the changes up to this poll, and wakes those that have any to send.
    pub fn show(&self, poll: u64, products: &[Arc<LiveProduct>]) {
        // Before the wake-ups: a stream that polls too early is woken again.
        let before = self.shown.fetch_max(poll, Ordering::AcqRel);
        products.iter().filter(|product| product.changed() > before).for_each(|product| product.wake());
        // If the table was closed meanwhile: `close` couldn't wake the streams that were being woken here.
        if self.shown() == CLOSED {
            products.iter().for_each(|product| product.wake());
        }
    }

    /// The last poll whose changes may be sent.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        let products: Vec<_> = {
            let mut inner = lock(&self.inner);
            inner.closed = true;
            inner.subscribers.clear();
            inner.products.values().map(Arc::clone).collect()
        };
        self.shown.store(CLOSED, Ordering::Release);
        products.iter().for_each(|product| product.wake());
    }
}

/// [`Table::shown`] of a closed table: no poll has this number.
pub const CLOSED: u64 = u64::MAX;

impl Inner {
    /// Returns the product. None: it is new, and there is no share for it.
    fn product(
        &mut self,
        product: &ProductId,
        shown: &Arc<AtomicU64>,
        shares: &mut impl Iterator<Item = Held>,
    ) -> Option<Arc<LiveProduct>> {
        if let Some(known) = self.products.get(product) {
            return Some(Arc::clone(known));
        }
        let live = Arc::new(LiveProduct::new(product.clone(), Arc::clone(shown), shares.next()?));
        self.products.insert(product.clone(), Arc::clone(&live));
        Some(live)
    }

    /// Removes products without a subscription. The lock keeps new ones out meanwhile.
    fn remove_unused(&mut self) {
        self.products.retain(|_, product| Arc::strong_count(product) > 1);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn table(most: usize) -> Table {
        Table::new(most, Share::new(most, IntCounter::new("r", "r").unwrap()))
    }

    fn products(names: &[&str]) -> Vec<ProductId> {
        names.iter().map(|name| ProductId::parse(name).unwrap()).collect()
    }

    #[test]
    fn products_are_limited_and_unused_ones_make_room() {
        let table = table(3);
        let two = table.subscribe(&products(&["a", "b"]), &Arc::default(), CLIENT).unwrap();
        let _three = table.subscribe(&products(&["b", "c"]), &Arc::default(), CLIENT).unwrap();
        assert!(table.subscribe(&products(&["a", "d"]), &Arc::default(), CLIENT).is_err());
        let three_more = table.subscribe(&products(&["a", "b", "c"]), &Arc::default(), CLIENT).unwrap();
        drop((two, three_more));
        drop(table.take_subscribers());
        table.forget_unused();
        assert!(table.subscribe(&products(&["d"]), &Arc::default(), CLIENT).is_ok());
        // That stream was closed before its first counts were read.
        drop(table.take_subscribers());
        table.forget_unused();
        assert!(table.subscribe(&products(&["e"]), &Arc::default(), CLIENT).is_ok());
    }

    #[test]
    fn shown_poll_only_rises() {
        let table = table(1);
        for (poll, shown) in [(1, 1), (3, 3), (2, 3)] {
            table.show(poll, &[]);
            assert_eq!(table.shown(), shown);
        }
    }

    #[test]
    fn closed_table_admits_no_stream() {
        let table = table(1);
        let (_subscription, mut read) = table.subscribe(&products(&["p"]), &Arc::default(), CLIENT).unwrap();
        table.close();
        assert!(read.try_recv().is_err() && table.subscribe(&products(&["p"]), &Arc::default(), CLIENT).is_err());
        table.show(1, &[]);
        assert_eq!(table.shown(), CLOSED);
    }
}
