//! The metrics of streams, and the slot that an open stream holds.

use anyhow::Context;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::sync::OwnedSemaphorePermit;

#[derive(Clone)]
pub struct StreamMetrics {
    pub open: IntGauge,
    pub products: IntGauge,
    pub at_interval: IntCounter,
    pub for_subscribers: IntCounter,
}

/// One open stream out of `MAX_STREAMS`.
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    open: IntGauge,
}

impl Slot {
    pub fn new(permit: OwnedSemaphorePermit, open: &IntGauge) -> Self {
        open.inc();
        Self { _permit: permit, open: open.clone() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl StreamMetrics {
    pub fn register(registry: &Registry) -> anyhow::Result<Self> {
        let open = IntGauge::new("likes_open_streams", "streams of live counts that are open")?;
        let products = IntGauge::new(
            "likes_watched_products",
            "distinct products of all open streams, as asked for at the last interval",
        )?;
        let queries = IntCounterVec::new(
            Opts::new(
                "likes_stream_queries_total",
                "queries for the counts of streams, by reason: interval (all watched products), newcomers (those of \
                 streams that were opened since the last query)",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(open.clone())).context("metrics")?;
        registry.register(Box::new(products.clone())).context("metrics")?;
        registry.register(Box::new(queries.clone())).context("metrics")?;
        let (at_interval, for_subscribers) =
            (queries.with_label_values(&["interval"]), queries.with_label_values(&["newcomers"]));
        Ok(Self { open, products, at_interval, for_subscribers })
    }
}
