//! Polls the database for all streams: at each interval the counts of all subscribed products, and in
//! between those of new subscribers. One query runs at a time, so that an older count never replaces
//! a newer one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::metrics::StreamMetrics;
use super::product::LiveProduct;
use super::table::Table;
use crate::read::databases::{Database, Databases};
use crate::read::error::ReadError;
use crate::read::queries::{self, Change};

/// From a query's end to the next one's start: new subscribers share at most twenty queries a second.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Hub {
    databases: Databases,
    table: Arc<Table>,
    interval: Duration,
    metrics: StreamMetrics,
    number: u64,
    answered: bool,
}

impl Hub {
    pub fn new(databases: Databases, table: Arc<Table>, interval: Duration, metrics: StreamMetrics) -> Self {
        Self { databases, table, interval, metrics, number: 0, answered: true }
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
    /// been read already; if no database answers this one, they fail with it.
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
        let unread = |product: &Arc<LiveProduct>| match self.databases.of(product.id()) {
            Ok(owner) => read[owner].clone().err(),
            Err(error) => Some(error),
        };
        if everything {
            self.table.show(self.number, &products);
        }
        let none_answers = read.iter().all(Result::is_err);
        let late = if none_answers { self.table.take_subscribers() } else { Vec::new() };
        for subscriber in subscribers.into_iter().chain(late) {
            let failed = subscriber.products.iter().find_map(unread);
            let _ = subscriber.read.send(failed.map_or(Ok(()), Err));
        }
        self.report(read.into_iter().find_map(Result::err).as_ref());
    }

    /// Reads the products of each database, and returns which of the databases have answered.
    async fn read(&mut self, products: &[Arc<LiveProduct>]) -> Vec<Result<(), ReadError>> {
        let databases = self.databases.all();
        let mut by_database: Vec<Vec<&Arc<LiveProduct>>> = databases.iter().map(|_| Vec::new()).collect();
        for product in products {
            if let Ok(owner) = self.databases.of(product.id()) {
                by_database[owner].push(product);
            }
        }
        let query = async |(database, products): (&Database, &Vec<&Arc<LiveProduct>>)| {
            if products.is_empty() {
                return Ok(Vec::new());
            }
            let ids = products.iter().map(|product| product.id().as_str()).collect();
            let (counts, times) = products.iter().map(|product| product.known()).unzip();
            queries::changes(&database.pool, ids, counts, times).await
        };
        let answers = join_all(databases.iter().zip(&by_database).map(query)).await;
        self.number += 1;
        let shown = self.table.shown();
        let change = |(answer, products): (Result<Vec<Change>, _>, Vec<&Arc<LiveProduct>>)| {
            answer.map(|changes| {
                changes.iter().for_each(|change| products[change.place].change(self.number, shown, change));
            })
        };
        answers.into_iter().zip(by_database).map(change).collect()
    }

    /// Logs the begin and the end of an outage.
    fn report(&mut self, failed: Option<&ReadError>) {
        match failed {
            Some(error) if self.answered => warn!(cause = %error, "streams paused: counts can't be read"),
            None if !self.answered => info!("streams resumed"),
            _ => {}
        }
        self.answered = failed.is_none();
    }
}
