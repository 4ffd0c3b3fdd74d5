//! Polls the database for all streams: at each interval the counts of all subscribed products, and in
//! between those of new subscribers. One query runs at a time, so that an older count never replaces
//! a newer one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::metrics::StreamMetrics;
use super::product::LiveProduct;
use super::table::Table;
use crate::read::error::ReadError;
use crate::read::queries;

/// From a query's end to the next one's start: new subscribers share at most twenty queries a second.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Hub {
    pool: PgPool,
    table: Arc<Table>,
    interval: Duration,
    metrics: StreamMetrics,
    number: u64,
    answered: bool,
}

impl Hub {
    pub fn new(pool: PgPool, table: Arc<Table>, interval: Duration, metrics: StreamMetrics) -> Self {
        Self { pool, table, interval, metrics, number: 0, answered: true }
    }

    pub async fn run(mut self) -> Infallible {
        // The times of the next poll of everything, and of the earliest for new subscribers.
        let (mut due, mut soonest) = (Instant::now(), Instant::now());
        loop {
            let idle = self.table.is_empty();
            let interval = async {
                if idle {
                    std::future::pending::<()>().await;
                }
                sleep_until(due).await;
            };
            let subscribers = async {
                self.table.subscribed().await;
                sleep_until(soonest).await;
            };
            let everything = tokio::select! {
                biased;
                () = interval => true,
                () = subscribers => false,
            };
            let started = Instant::now();
            self.poll(everything).await;
            soonest = Instant::now() + PAUSE;
            if everything || idle {
                due = (started + self.interval).max(soonest);
            }
        }
    }

    /// Polls once. Streams that subscribe meanwhile wait for the next poll, since their counts may have
    /// been read already; if this poll fails, they fail with it.
    async fn poll(&mut self, everything: bool) {
        let subscribers = self.table.take_subscribers();
        let products = if everything {
            let products = self.table.products();
            self.metrics.products.set(products.len() as i64);
            products
        } else {
            let mut products: Vec<_> =
                subscribers.iter().flat_map(|subscriber| subscriber.products.iter().cloned()).collect();
            products.sort_unstable_by_key(Arc::as_ptr);
            products.dedup_by(|a, b| Arc::ptr_eq(a, b));
            products
        };
        if products.is_empty() {
            return;
        }
        let reason = if everything { &self.metrics.at_interval } else { &self.metrics.for_subscribers };
        reason.inc();
        let read = self.read(&products).await;
        self.report(&read);
        match read {
            Ok(()) => {
                if everything {
                    self.table.show(self.number, &products);
                }
                subscribers.into_iter().for_each(|subscriber| drop(subscriber.read.send(Ok(()))));
            }
            Err(error) => {
                for subscriber in subscribers.into_iter().chain(self.table.take_subscribers()) {
                    let _ = subscriber.read.send(Err(error.clone()));
                }
            }
        }
    }

    async fn read(&mut self, products: &[Arc<LiveProduct>]) -> Result<(), ReadError> {
        let ids = products.iter().map(|product| product.id().as_str()).collect();
        let (counts, times) = products.iter().map(|product| product.known()).unzip();
        let changes = queries::changes(&self.pool, ids, counts, times).await?;
        self.number += 1;
        let shown = self.table.shown();
        for change in changes {
            products[change.place].change(self.number, shown, &change);
        }
        Ok(())
    }

    /// Logs the begin and the end of an outage.
    fn report(&mut self, read: &Result<(), ReadError>) {
        match read {
            Err(error) if self.answered => warn!(cause = %error, "streams paused: counts can't be read"),
            Ok(()) if !self.answered => info!("streams resumed"),
            _ => {}
        }
        self.answered = read.is_ok();
    }
}
