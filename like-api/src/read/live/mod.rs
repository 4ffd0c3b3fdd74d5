//! Live counts: `GET /v1/likes/stream`. All streams of a replica share one query per interval,
//! whatever their number; who comes new shares one with all who come at that moment.
//!
//! Nothing is queued for a stream: a product has one event, the newest, and a stream remembers
//! which of a product's it has sent. A reader that is slow skips what was overtaken meanwhile, one
//! that takes no bytes at all loses its connection (`public.rs`).
//!
//! `table` is what is watched and by whom, `hub` the task that asks the database, `body` one
//! stream's answer.

mod body;
mod hub;
mod metrics;
mod table;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use like_events::ProductId;
use prometheus::Registry;
use sqlx::PgPool;
use tokio::sync::Semaphore;

pub use self::body::LiveCounts;
use self::hub::Hub;
use self::metrics::{Slot, StreamMetrics};
use self::table::Table;
use crate::config::StreamSettings;
use crate::read::error::ReadError;

/// Distinct products that all streams of a replica watch together: what one query can ask for
/// without taking a good part of an interval.
const PRODUCTS_MAX: usize = 20_000;

/// All streams of this replica.
pub struct Streams {
    table: Arc<Table>,
    pool: PgPool,
    interval: Duration,
    slots: Arc<Semaphore>,
    heartbeat: Duration,
    metrics: StreamMetrics,
}

impl Streams {
    /// None is open, and none opens until [`Streams::keep_reading`] runs.
    pub fn new(settings: &StreamSettings, pool: PgPool, registry: &Registry) -> anyhow::Result<Self> {
        Ok(Self {
            table: Arc::new(Table::new(PRODUCTS_MAX)),
            pool,
            interval: settings.stream_interval,
            heartbeat: settings.stream_heartbeat,
            slots: Arc::new(Semaphore::new(settings.max_streams as usize)),
            metrics: StreamMetrics::register(registry)?,
        })
    }

    /// The task that reads counts for all of them. Never ends.
    pub fn keep_reading(&self) -> impl Future<Output = Infallible> + use<> {
        Hub::new(self.pool.clone(), Arc::clone(&self.table), self.interval, self.metrics.clone()).run()
    }

    /// Ends all streams, those that are about to open included.
    pub fn close(&self) {
        self.table.close();
    }

    /// A stream of these products, repeats left out. Its first counts were read after this was
    /// called, so whatever its reader has seen or was told before is in them.
    pub async fn open(&self, mut products: Vec<ProductId>) -> Result<LiveCounts, ReadError> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| ReadError::Overloaded)?;
        let mut seen = HashSet::new();
        products.retain(|product| seen.insert(product.clone()));
        let (watching, read) = self.table.watch(products).ok_or(ReadError::Overloaded)?;
        // No answer: the service ends.
        read.await.unwrap_or(Err(ReadError::Overloaded))?;
        Ok(LiveCounts::new(Arc::clone(&self.table), watching, self.heartbeat, Slot::new(permit, &self.metrics.open)))
    }
}
