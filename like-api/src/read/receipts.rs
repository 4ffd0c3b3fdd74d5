//! Where receipts' events stand: asked for together, and for those who wait, again and again, by
//! one query for all of them per interval.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use like_events::Receipt;
use prometheus::{Histogram, HistogramOpts, IntGauge, Registry};
use sqlx::PgPool;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::read::batcher::{Bounds, Loader, READS};
use crate::read::error::ReadError;
use crate::read::pool::{self, READ_TIMEOUT, Standing};

/// Between two looks at what is waited for, beside what a look takes. A batch is folded every
/// 100 ms or so.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// The same while PostgreSQL can't be asked.
const FAILED_INTERVAL: Duration = Duration::from_millis(500);
/// Callers who wait at the same time. A look at so many different receipts takes PostgreSQL a few
/// milliseconds.
pub const WAITERS_MAX: usize = 5_000;

const BOUNDS: Bounds = Bounds { keys: 1_000, queries: 2, patience: Duration::from_millis(10), timeout: READ_TIMEOUT };

/// All receipts that are asked for.
pub struct Receipts {
    loader: Loader<Receipt, Standing>,
    places: Semaphore,
    waiters: IntGauge,
    watched: Arc<Watched>,
    shutdown: CancellationToken,
}

/// What became of waiting.
#[derive(Debug, PartialEq, Eq)]
pub enum Waited {
    /// It is no longer pending.
    Settled(Standing),
    /// It still is, and the time is up, or the service ends.
    Pending,
    /// Too many wait already: it hasn't.
    NoPlace,
}

/// The receipts that somebody waits for.
struct Watched {
    pool: PgPool,
    reads: Histogram,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None: pending.
    receipts: HashMap<Receipt, watch::Sender<Option<Standing>>>,
    /// Whether somebody looks for them.
    looking: bool,
    /// What the last look ended in, if it was no answer.
    failed: Option<ReadError>,
}

impl Receipts {
    /// Read through `pool`; what it counts is made known to `registry`. With `shutdown` waiting ends.
    pub fn new(pool: PgPool, registry: &Registry, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let reads = Histogram::with_opts(
            HistogramOpts::new(
                "likes_receipt_query_reads",
                "reads of receipts, or callers waiting for one, that one query served; as many observations as queries",
            )
            .buckets(READS.to_vec()),
        )?;
        let waiters = IntGauge::new("likes_receipt_waiters", "callers waiting for a receipt to be counted")?;
        registry.register(Box::new(reads.clone()))?;
        registry.register(Box::new(waiters.clone()))?;
        let watched = Arc::new(Watched { pool: pool.clone(), reads: reads.clone(), state: Mutex::default() });
        let query = move |receipts: Vec<Receipt>| {
            let pool = pool.clone();
            async move { pool::standings(&pool, &receipts).await }
        };
        let loader = Loader::new(BOUNDS, reads, query);
        Ok(Self { loader, places: Semaphore::new(WAITERS_MAX), waiters, watched, shutdown })
    }

    /// Where the event stands now.
    pub async fn standing(&self, receipt: Receipt) -> Result<Standing, ReadError> {
        let mut standings = self.loader.ask([receipt]).await?;
        standings.pop().ok_or_else(|| ReadError::Internal("no standing".to_owned()))
    }

    /// Waits until an event that was pending no longer is, at most `limit`. While PostgreSQL is away
    /// it waits on; an error if it is away at the end, since then nobody knows.
    pub async fn wait(&self, receipt: Receipt, limit: Duration) -> Result<Waited, ReadError> {
        let Ok(_place) = self.places.try_acquire() else { return Ok(Waited::NoPlace) };
        let _waiter = Waiter::counted(&self.waiters);
        let mut standing = self.watched.add(receipt);
        tokio::select! {
            settled = standing.wait_for(Option::is_some) => match settled.ok().and_then(|standing| standing.clone()) {
                Some(standing) => Ok(Waited::Settled(standing)),
                None => Err(ReadError::Internal("a receipt is no longer looked for".to_owned())),
            },
            () = tokio::time::sleep(limit) => match self.watched.lock().failed.clone() {
                Some(error) => Err(error),
                None => Ok(Waited::Pending),
            },
            () = self.shutdown.cancelled() => Ok(Waited::Pending),
        }
    }
}

impl Watched {
    /// Has it looked for until nobody holds the receiver any more.
    fn add(self: &Arc<Self>, receipt: Receipt) -> watch::Receiver<Option<Standing>> {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.looking, true) {
            tokio::spawn(Arc::clone(self).look());
        }
        state.receipts.entry(receipt).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Looks for all of them, as long as there are any.
    async fn look(self: Arc<Self>) {
        let mut pause = INTERVAL;
        loop {
            tokio::time::sleep(pause).await;
            let Some(receipts) = self.still_waited_for() else { return };
            let standings = pool::standings(&self.pool, &receipts).await;
            pause = if standings.is_ok() { INTERVAL } else { FAILED_INTERVAL };
            self.tell(receipts, standings);
        }
    }

    /// None: nobody waits, and whoever comes next has to have somebody look.
    fn still_waited_for(&self) -> Option<Vec<Receipt>> {
        let mut state = self.lock();
        state.receipts.retain(|_, standing| standing.receiver_count() > 0);
        if state.receipts.is_empty() {
            *state = State::default();
            return None;
        }
        let waiters: usize = state.receipts.values().map(watch::Sender::receiver_count).sum();
        self.reads.observe(waiters as f64);
        Some(state.receipts.keys().copied().collect())
    }

    fn tell(&self, receipts: Vec<Receipt>, standings: Result<Vec<Standing>, ReadError>) {
        let mut state = self.lock();
        state.failed = standings.as_ref().err().cloned();
        // What has come to one of the other ends stays there: also who has come meanwhile may know.
        for (receipt, standing) in receipts.into_iter().zip(standings.into_iter().flatten()) {
            if !matches!(standing, Standing::Pending { .. }) {
                let told = state.receipts.remove(&receipt);
                told.into_iter().for_each(|waiting| drop(waiting.send_replace(Some(standing.clone()))));
            }
        }
    }

    /// Held for a few instructions that don't panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits, counted as long as that is so.
struct Waiter<'a>(&'a IntGauge);

impl<'a> Waiter<'a> {
    fn counted(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use like_testkit::eventually;
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn nobody_looks_once_nobody_waits() {
        let pool = PgPoolOptions::new().connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let receipts = Receipts::new(pool, &Registry::new(), CancellationToken::new()).unwrap();
        let looking = || receipts.watched.lock().looking;
        let receipt = Receipt { sequence: 1, partition: 0, offset: 0 };
        assert!(matches!(receipts.wait(receipt, Duration::ZERO).await, Ok(Waited::Pending)));
        assert!(looking());
        eventually("nobody looks", async || (!looking()).then_some(())).await;
    }
}
