//! The metrics of streams.

use like_common::metrics::add;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

use crate::metrics::counters;

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
        let help = "queries for the counts of streams, by reason: interval (all products), newcomers (the products of \
                    streams opened since the last query)";
        let queries = Opts::new("likes_stream_queries_total", help);
        let [at_interval, for_subscribers] = counters(registry, queries, "reason", ["interval", "newcomers"]);
        Self { open: add(registry, open), products: add(registry, products), at_interval, for_subscribers }
    }
}
