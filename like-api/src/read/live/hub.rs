//! Asks the database, for all streams: one query after the other, so that a count that was read
//! later can't be overtaken by one that was read before. At each interval for everything that is
//! watched; in between, soon, for those who have come new.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::metrics::StreamMetrics;
use super::table::{Table, Watched};
use crate::read::error::ReadError;
use crate::read::pool;

/// Between a query's end and the next one's start: thousands who come one after another share
/// twenty queries a second at most.
const PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub struct Hub {
    pool: PgPool,
    table: Arc<Table>,
    interval: Duration,
    metrics: StreamMetrics,
    look: u64,
    answered: bool,
}

impl Hub {
    pub fn new(pool: PgPool, table: Arc<Table>, interval: Duration, metrics: StreamMetrics) -> Self {
        Self { pool, table, interval, metrics, look: 0, answered: true }
    }

    /// Never ends.
    pub async fn run(mut self) -> Infallible {
        // Of the next look at everything, and of the soonest for newcomers.
        let (mut due, mut soonest) = (Instant::now(), Instant::now());
        loop {
            let idle = self.table.is_empty();
            let interval = async {
                if idle {
                    std::future::pending::<()>().await;
                }
                sleep_until(due).await;
            };
            let newcomers = async {
                self.table.arrival().await;
                sleep_until(soonest).await;
            };
            let everything = tokio::select! {
                biased;
                () = interval => true,
                () = newcomers => false,
            };
            let started = Instant::now();
            self.take(everything).await;
            soonest = Instant::now() + PAUSE;
            if everything || idle {
                due = (started + self.interval).max(soonest);
            }
        }
    }

    /// One look. Who comes while it is under way waits for the next one: its counts may have been
    /// read already. If it fails they needn't: they would only be told the same later.
    async fn take(&mut self, everything: bool) {
        let newcomers = self.table.newcomers();
        let watched = if everything {
            let watched = self.table.watched();
            self.metrics.products.set(watched.len() as i64);
            watched
        } else {
            let mut watched: Vec<_> = newcomers.iter().flat_map(|newcomer| newcomer.watched.iter().cloned()).collect();
            watched.sort_unstable_by_key(Arc::as_ptr);
            watched.dedup_by(|a, b| Arc::ptr_eq(a, b));
            watched
        };
        if watched.is_empty() {
            return;
        }
        let reason = if everything { &self.metrics.at_interval } else { &self.metrics.for_newcomers };
        reason.inc();
        let read = self.read(&watched).await;
        self.report(&read);
        match read {
            Ok(()) => {
                if everything {
                    self.table.show(self.look, &watched);
                }
                newcomers.into_iter().for_each(|newcomer| drop(newcomer.read.send(Ok(()))));
            }
            Err(error) => {
                for newcomer in newcomers.into_iter().chain(self.table.newcomers()) {
                    let _ = newcomer.read.send(Err(error.clone()));
                }
            }
        }
    }

    async fn read(&mut self, watched: &[Arc<Watched>]) -> Result<(), ReadError> {
        let ids = watched.iter().map(|watched| watched.product().as_str()).collect();
        let (counts, times) = watched.iter().map(|watched| watched.known()).unzip();
        let changes = pool::changes(&self.pool, ids, counts, times).await?;
        self.look += 1;
        let shown = self.table.shown();
        for change in changes {
            watched[change.place].change(self.look, shown, &change);
        }
        Ok(())
    }

    /// Once when it begins and once when it ends, however long it takes.
    fn report(&mut self, read: &Result<(), ReadError>) {
        match read {
            Err(error) if self.answered => warn!(cause = %error, "streams stand still: no counts can be read"),
            Ok(()) if !self.answered => info!("streams go on"),
            _ => {}
        }
        self.answered = read.is_ok();
    }
}
