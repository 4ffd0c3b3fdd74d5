//! Live counts: `GET /v1/likes/stream`. All streams of a replica share one query per interval and
//! database; streams that open at the same moment share the query for their first counts.
//!
//! Nothing is queued for a stream: a product has one event, the newest, and a stream remembers which
//! event of a product it has sent. A slow client skips events; one that reads nothing loses its
//! connection (`http::listener`).
//!
//! `table` holds the subscriptions to the products of a database, `product` the newest event of a
//! product, `hub` polls the database, `body` is the response body of one stream.

mod body;
mod hub;
mod metrics;
mod product;
mod table;

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{select_all, try_join_all};
use futures::task::AtomicWaker;
use like_events::ProductId;
use prometheus::Registry;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::body::LiveCounts;
use self::body::Subscription;
use self::hub::Hub;
use self::metrics::StreamMetrics;
use self::table::{FirstRead, Refused, Table};
use crate::config::StreamSettings;
use crate::limits::Limits;
use crate::limits::share::Share;
use crate::metrics::Counted;
use crate::read::databases::{Database, Databases};
use crate::read::error::ReadError;

/// Most distinct products of all streams together, of each database: one query for them takes a small part of an
/// interval.
const PRODUCTS_MAX: usize = 20_000;

pub struct Streams {
    databases: Databases,
    /// One per database.
    tables: Vec<Arc<Table>>,
    /// Of each address in the products of all tables, those that it watched first.
    products_share: Arc<Share>,
    interval: Duration,
    slots: Arc<Semaphore>,
    share: Arc<Share>,
    heartbeat: Duration,
    max_age: Duration,
    metrics: StreamMetrics,
}

/// Why a stream doesn't open.
pub enum OpenError {
    Read(ReadError),
    /// Its address has its share of this.
    OverShare(&'static str),
}

impl Streams {
    /// No stream opens until [`Streams::keep_reading`] runs. The error says in one line why the settings are
    /// refused.
    pub fn new(
        settings: &StreamSettings,
        limits: &Limits,
        databases: Databases,
        registry: &Registry,
    ) -> Result<Self, String> {
        let max_streams = settings.max_streams(limits.max_connections)?;
        let products_share = limits.share("products", PRODUCTS_MAX);
        let table = |_| Arc::new(Table::new(PRODUCTS_MAX, Arc::clone(&products_share)));
        Ok(Self {
            tables: databases.all().iter().map(table).collect(),
            products_share,
            databases,
            interval: settings.stream_interval,
            heartbeat: settings.stream_heartbeat,
            max_age: settings.stream_max_age,
            slots: Arc::new(Semaphore::new(max_streams)),
            share: limits.share("streams", max_streams),
            metrics: StreamMetrics::register(registry),
        })
    }

    /// Returns the task that reads counts for all streams. It never ends.
    pub fn keep_reading(&self) -> impl Future<Output = Infallible> + use<> {
        // One for each, so that a database that is away or hangs holds up its own products only.
        let all = self.databases.all();
        let hub = |(number, (database, table)): (usize, (&Database, &Arc<Table>))| {
            let number = (all.len() > 1).then_some(number);
            Hub::new(database.pool.clone(), number, Arc::clone(table), self.interval, self.metrics.clone())
        };
        let hubs: Vec<_> = (1..).zip(all.iter().zip(&self.tables)).map(|of| Box::pin(hub(of).run())).collect();
        async { select_all(hubs).await.0 }
    }

    /// Ends all streams, including those that are about to open.
    pub fn close(&self) {
        self.tables.iter().for_each(|table| table.close());
    }

    /// Opens a stream of these products for a client, without duplicates. Its first counts are read after this call,
    /// so they include everything that the client has seen before.
    pub async fn open(&self, mut products: Vec<ProductId>, client: IpAddr) -> Result<LiveCounts, OpenError> {
        let share = self.share.take(client).ok_or(OpenError::OverShare("streams"))?;
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| ReadError::Overloaded)?;
        let mut seen = HashSet::new();
        products.retain(|product| seen.insert(product.clone()));
        let (subscription, read) = self.subscribe(products, client).inspect_err(|refused| {
            if matches!(refused, OpenError::OverShare(_)) {
                self.products_share.refused();
            }
        })?;
        // A sender is dropped when the service shuts down.
        let read = read.into_iter().map(async |read: FirstRead| read.await.unwrap_or(Err(ReadError::Overloaded)));
        try_join_all(read).await?;
        let slot = (permit, share, Counted::by(&self.metrics.open));
        let ends = Instant::now() + body::less_a_quarter(self.max_age);
        Ok(LiveCounts::new(subscription, self.heartbeat, ends, slot))
    }

    /// Subscribes a stream to its products, in the tables of their databases.
    fn subscribe(&self, products: Vec<ProductId>, client: IpAddr) -> Result<(Subscription, Vec<FirstRead>), OpenError> {
        let owners: Vec<usize> = products.iter().map(|product| self.databases.of(product)).collect::<Result<_, _>>()?;
        let mut by_database: Vec<Vec<ProductId>> = self.tables.iter().map(|_| Vec::new()).collect();
        for (&owner, product) in owners.iter().zip(products) {
            by_database[owner].push(product);
        }
        let waker = Arc::new(AtomicWaker::new());
        let (mut subscribed, mut reads) = (Vec::new(), Vec::new());
        for (table, products) in self.tables.iter().zip(by_database) {
            let mut live = Vec::new();
            if !products.is_empty() {
                let subscribe = || table.subscribe(&products, &waker, client);
                let read;
                (live, read) = subscribe().or_else(|_| {
                    self.tables.iter().for_each(|table| table.forget_unused());
                    subscribe()
                })?;
                reads.push(read);
            }
            subscribed.push(live.into_iter());
        }
        let products = owners.into_iter().filter_map(|owner| subscribed[owner].next());
        Ok((Subscription { waker, products: products.map(|product| (product, 0)).collect() }, reads))
    }
}

impl From<Refused> for OpenError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Read(ReadError::Overloaded),
            Refused::OverShare => Self::OverShare("watched products"),
        }
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

#[cfg(test)]
mod tests {
    use like_events::partition;
    use prometheus::IntCounter;

    use super::*;
    use crate::read::databases::tests::layout;

    /// A share is one of all databases.
    #[tokio::test]
    async fn unused_products_of_another_database_make_room() {
        let databases = Databases::unreachable(2);
        let holding = |held| layout(1, "t", 2, Some(&[held]));
        databases.laid_out(&[vec![holding(0)], vec![holding(1)]], "t").unwrap();
        let share = |most| Share::new(most, IntCounter::new("r", "r").unwrap());
        let products_share = share(1);
        let streams = Streams {
            databases,
            tables: (0..2).map(|_| Arc::new(Table::new(9, Arc::clone(&products_share)))).collect(),
            products_share,
            interval: Duration::from_secs(1),
            slots: Arc::new(Semaphore::new(9)),
            share: share(9),
            heartbeat: Duration::from_secs(1),
            max_age: Duration::from_secs(9),
            metrics: StreamMetrics::register(&Registry::new()),
        };
        let product = |of: i32| {
            let ids = (0..).map(|n| format!("p{n}"));
            let id = ids.into_iter().find(|id| partition(id.as_bytes(), 2) == of).unwrap();
            ProductId::parse(&id).unwrap()
        };
        let client = [192, 0, 2, 1].into();
        let first = streams.subscribe(vec![product(0)], client).map_err(drop).unwrap();
        assert!(matches!(streams.subscribe(vec![product(1)], client), Err(OpenError::OverShare(_))));
        drop(first);
        assert_eq!(streams.tables[0].take_subscribers().len(), 0);
        assert!(streams.subscribe(vec![product(1)], client).is_ok());
    }
}
