//! The status of receipts. Concurrent reads share a query. For callers that wait, one task polls the
//! status of all their receipts, with one query per interval.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use like_common::metrics::add;
use like_events::Receipt;
use prometheus::{Histogram, IntGauge, Registry};
use sqlx::PgPool;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::limits::share::Share;
use crate::metrics::Counted;
use crate::read::batcher::{BatchLimits, reads_per_query};
use crate::read::batchers::Batchers;
use crate::read::databases::Databases;
use crate::read::error::ReadError;
use crate::read::lock::lock;
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries::{self, ReceiptState, RecordOfEvent};

/// The least pause between two polls. PostgreSQL isn't asked to notify: `NOTIFY` takes a lock for all commits, and every
/// batch would pay for it.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// The pause is this many times as long as the poll took, so that polls take a fifth of a connection at most.
const PAUSE_PER_POLL: u32 = 4;
/// The same while PostgreSQL can't be reached.
const FAILED_INTERVAL: Duration = Duration::from_millis(500);
/// Most callers that wait at the same time. A poll of so many receipts takes PostgreSQL a few
/// milliseconds.
pub const WAITERS_MAX: usize = 5_000;

const LIMITS: BatchLimits =
    BatchLimits { keys: 1_000, queries: 2, max_delay: Duration::from_millis(10), timeout: READ_TIMEOUT };

pub struct Receipts {
    batchers: Batchers<Receipt, ReceiptState>,
    repeats: Batchers<RecordOfEvent, bool>,
    places: Semaphore,
    share: Arc<Share>,
    waiters: IntGauge,
    databases: Databases,
    /// Of each database.
    pollers: Vec<Arc<Poller>>,
    shutdown: CancellationToken,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// No longer pending.
    Settled(ReceiptState),
    /// Still pending when the time was up or the service shut down.
    Pending,
    /// Didn't wait: there are too many waiters, or too many of this address.
    TooManyWaiters,
}

/// Polls the receipts that have waiters.
struct Poller {
    pool: PgPool,
    reads: Histogram,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None: pending.
    receipts: HashMap<Receipt, watch::Sender<Option<ReceiptState>>>,
    /// Whether the polling task runs.
    polling: bool,
    /// The error of the last poll.
    failed: Option<ReadError>,
}

impl Receipts {
    /// Reads from `databases` and registers its metrics. `shutdown` ends all waits.
    pub fn new(databases: &Databases, registry: &Registry, share: Arc<Share>, shutdown: CancellationToken) -> Self {
        let help =
            "reads of receipts, or callers waiting for one, that one query served; as many observations as queries";
        let reads = reads_per_query(registry, "likes_receipt_query_reads", help);
        let waiters = IntGauge::new("likes_receipt_waiters", "callers waiting for a receipt to be counted");
        let waiters = add(registry, waiters);
        let query = async |pool: PgPool, receipts: Vec<Receipt>| queries::receipt_statuses(&pool, &receipts).await;
        let repeats = async |pool: PgPool, records: Vec<RecordOfEvent>| queries::repeats(&pool, &records).await;
        let repeats = Batchers::new(databases, LIMITS, &reads, repeats);
        let batchers = Batchers::new(databases, LIMITS, &reads, query);
        let poller = |pool: PgPool| Arc::new(Poller { pool, reads: reads.clone(), state: Mutex::default() });
        let pollers = databases.all().iter().map(|database| poller(database.pool.clone())).collect();
        let (databases, places) = (databases.clone(), Semaphore::new(WAITERS_MAX));
        Self { batchers, repeats, places, share, waiters, databases, pollers, shutdown }
    }

    pub async fn status(&self, receipt: Receipt) -> Result<ReceiptState, ReadError> {
        let mut statuses = self.batchers.read([receipt]).await?;
        statuses.pop().ok_or_else(|| ReadError::Internal("no status".to_owned()))
    }

    /// Whether a counted record was dropped as a repeat, as far as is known. The status is answered without it, too.
    pub async fn is_repeat(&self, record: RecordOfEvent) -> bool {
        match self.repeats.read([record]).await {
            Ok(repeats) => repeats.first() == Some(&true),
            Err(error) => {
                debug!(%error, "not known whether an event is a repeat");
                false
            }
        }
    }

    /// Waits until a pending event is settled, at most `limit`. An outage of PostgreSQL doesn't end the
    /// wait; one that lasts until `limit` is an error, since the status is unknown then.
    pub async fn wait(&self, receipt: Receipt, limit: Duration, client: IpAddr) -> Result<Waited, ReadError> {
        let Some(_share) = self.share.take(client) else { return Ok(Waited::TooManyWaiters) };
        let Ok(_place) = self.places.try_acquire() else { return Ok(Waited::TooManyWaiters) };
        let _waiter = Counted::by(&self.waiters);
        let poller = &self.pollers[self.databases.of(&receipt)?];
        let mut status = poller.add(receipt);
        tokio::select! {
            settled = status.wait_for(Option::is_some) => match settled.ok().and_then(|status| status.clone()) {
                Some(status) => Ok(Waited::Settled(status)),
                None => Err(ReadError::Internal("a receipt is no longer polled".to_owned())),
            },
            () = tokio::time::sleep(limit) => match lock(&poller.state).failed.clone() {
                Some(error) => Err(error),
                None => Ok(Waited::Pending),
            },
            () = self.shutdown.cancelled() => Ok(Waited::Pending),
        }
    }
}

impl Poller {
    /// Polls the receipt while its receiver exists.
    fn add(self: &Arc<Self>, receipt: Receipt) -> watch::Receiver<Option<ReceiptState>> {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.polling, true) {
            tokio::spawn(Arc::clone(self).run());
        }
        state.receipts.entry(receipt).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Polls until no receipt has a waiter.
    async fn run(self: Arc<Self>) {
        let mut pause = INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let Some(receipts) = self.awaited() else { return };
            let start = Instant::now();
            let statuses = queries::receipt_statuses(&self.pool, &receipts).await;
            pause = if statuses.is_ok() { INTERVAL.max(start.elapsed() * PAUSE_PER_POLL) } else { FAILED_INTERVAL };
            self.publish(receipts, statuses);
        }
    }

    /// Returns the receipts with waiters. None: the task ends, and the next waiter starts another.
    fn awaited(&self) -> Option<Vec<Receipt>> {
        let mut state = lock(&self.state);
        state.receipts.retain(|_, status| status.receiver_count() > 0);
        if state.receipts.is_empty() {
            *state = State::default();
            return None;
        }
        let waiters: usize = state.receipts.values().map(watch::Sender::receiver_count).sum();
        self.reads.observe(waiters as f64);
        Some(state.receipts.keys().copied().collect())
    }

    fn publish(&self, receipts: Vec<Receipt>, statuses: Result<Vec<ReceiptState>, ReadError>) {
        let mut state = lock(&self.state);
        state.failed = statuses.as_ref().err().cloned();
        // A settled status is final, so it also answers waiters that came during the poll.
        for (receipt, status) in receipts.into_iter().zip(statuses.into_iter().flatten()) {
            if !matches!(status, ReceiptState::Pending { .. }) {
                let settled = state.receipts.remove(&receipt);
                settled.into_iter().for_each(|waiting| drop(waiting.send_replace(Some(status.clone()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use like_testkit::eventually;

    use super::*;

    #[tokio::test]
    async fn polling_ends_with_the_last_waiter() {
        let databases = Databases::unreachable(1);
        let share = Share::new(1, prometheus::IntCounter::new("r", "r").unwrap());
        let receipts = Receipts::new(&databases, &Registry::new(), share, CancellationToken::new());
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let polling = || lock(&receipts.pollers[0].state).polling;
        let receipt = Receipt { sequence: 1, partition: 0, offset: 0 };
        {
            let mut waits = std::pin::pin!(receipts.wait(receipt, Duration::from_secs(600), one));
            assert!(futures::poll!(&mut waits).is_pending());
            assert!(matches!(receipts.wait(receipt, Duration::ZERO, one).await, Ok(Waited::TooManyWaiters)));
            assert!(matches!(receipts.wait(receipt, Duration::ZERO, other).await, Ok(Waited::Pending)));
        }
        assert!(polling());
        eventually("polling ends", async || (!polling()).then_some(())).await;
    }
}
