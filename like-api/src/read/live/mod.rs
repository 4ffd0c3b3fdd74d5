//! Live counts: `GET /v1/likes/stream`. All streams of a replica share one query per interval; streams
//! that open at the same moment share the query for their first counts.
//!
//! Nothing is queued for a stream: a product has one event, the newest, and a stream remembers which
//! event of a product it has sent. A slow client skips events; one that reads nothing loses its
//! connection (`http::listener`).
//!
//! `table` holds the subscriptions, `product` the newest event of a product, `hub` is the task that
//! polls the database, `body` the response body of one stream.

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

use like_events::ProductId;
use prometheus::Registry;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::body::LiveCounts;
use self::hub::Hub;
use self::metrics::StreamMetrics;
use self::table::{Refused, Table};
use crate::config::StreamSettings;
use crate::limits::Limits;
use crate::limits::share::Share;
use crate::metrics::Counted;
use crate::read::databases::Databases;
use crate::read::error::ReadError;

/// Most distinct products of all streams together: one query for them takes a small part of an
/// interval.
const PRODUCTS_MAX: usize = 20_000;

pub struct Streams {
    table: Arc<Table>,
    databases: Databases,
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
        Ok(Self {
            table: Arc::new(Table::new(PRODUCTS_MAX, limits.share("products", PRODUCTS_MAX))),
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
        Hub::new(self.databases.clone(), Arc::clone(&self.table), self.interval, self.metrics.clone()).run()
    }

    /// Ends all streams, including those that are about to open.
    pub fn close(&self) {
        self.table.close();
    }

    /// Opens a stream of these products for a client, without duplicates. Its first counts are read after this call,
    /// so they include everything that the client has seen before.
    pub async fn open(&self, mut products: Vec<ProductId>, client: IpAddr) -> Result<LiveCounts, OpenError> {
        let share = self.share.take(client).ok_or(OpenError::OverShare("streams"))?;
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| ReadError::Overloaded)?;
        let mut seen = HashSet::new();
        products.retain(|product| seen.insert(product.clone()));
        let (subscription, read) = self.table.subscribe(products, client).map_err(|refused| match refused {
            Refused::Full => OpenError::Read(ReadError::Overloaded),
            Refused::OverShare => OpenError::OverShare("watched products"),
        })?;
        // The sender is dropped when the service shuts down.
        read.await.unwrap_or(Err(ReadError::Overloaded))?;
        let slot = (permit, share, Counted::by(&self.metrics.open));
        let ends = Instant::now() + body::less_a_quarter(self.max_age);
        Ok(LiveCounts::new(Arc::clone(&self.table), subscription, self.heartbeat, ends, slot))
    }
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
