//! The metrics of streams.

use like_common::metrics::add;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone)]
pub struct StreamMetrics {
    pub open: IntGauge,
    pub products: IntGauge,
    pub at_interval: IntCounter,
    pub for_subscribers: IntCounter,
}

impl StreamMetrics {
    pub fn register(registry: &Registry) -> Self {
        let open = IntGauge::new("likes_open_streams", "open streams of live counts");
        let products =
            IntGauge::new("likes_watched_products", "distinct products of all open streams, as of the last interval");
        let queries = IntCounterVec::new(
            Opts::new(
                "likes_stream_queries_total",
                "queries for the counts of streams, by reason: interval (all products), newcomers (the products of \
                 streams opened since the last query)",
            ),
            &["reason"],
        );
        let queries = add(registry, queries);
        Self {
            open: add(registry, open),
            products: add(registry, products),
            at_interval: queries.with_label_values(&["interval"]),
            for_subscribers: queries.with_label_values(&["newcomers"]),
        }
    }
}
