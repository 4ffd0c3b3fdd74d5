//! Applies what the consumer thread hands over, one order after the other, and tries again what
//! may succeed later. It never skips a batch: it commits it, gives it back, or ends the process.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use like_common::backoff::Backoff;
use like_common::health::{Health, Heartbeat};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::apply::transaction::{ApplyError, Store, StoredOffset};
use crate::fault::{self, Point};
use crate::fold::batch::{Batch, Span};
use crate::metrics::Metrics;
use crate::traces::{BatchSpan, BatchTraces, Links};

/// The condition under which `/readyz` reports the database.
pub const DATABASE: &str = "postgresql";

/// A loop of ours that hasn't gone round for this long is dead: longer than a batch's deadline.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);

/// Idle for so long: see whether the database is there.
const PING_AFTER: Duration = Duration::from_secs(5);

/// Between attempts: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// So many attempts that took too long or too much memory: half the batch is tried.
const HALVE_AFTER: u32 = 2;

/// Why a batch, or a part of one, was not applied.
enum Refused {
    TooLarge,
    StartAnew,
    Fatal(anyhow::Error),
}

/// What the consumer thread asks for.
pub enum Order {
    /// The stored offsets of these partitions.
    Offsets(Vec<i32>),
    /// Apply the batch, which spans of these links published; once the token is cancelled, don't
    /// try again.
    Apply(Batch, Links, CancellationToken),
    /// Record that retention removed these offsets unfolded, and move the stored one behind them.
    Skip {
        /// The partition.
        partition: i32,
        /// Its stored offset.
        from: i64,
        /// Where its log starts now.
        to: i64,
    },
}

/// What it is told. Every order has one answer, in the order of the orders.
pub enum Answer {
    /// Of the partitions asked for, those that have a row.
    Offsets(Vec<i32>, Vec<StoredOffset>),
    /// The batch is committed: per partition what it covered.
    Applied(Vec<(i32, Span)>),
    /// The batch is not applied, or not known to be: its partitions start anew from the stored offsets.
    StartAnew(Vec<i32>),
    /// The gap is recorded.
    Skipped {
        /// The partition.
        partition: i32,
        /// The first offset that is lost.
        from: i64,
        /// The first that isn't.
        to: i64,
    },
    /// It is not: the partition stands elsewhere.
    NotSkipped(i32),
    /// The store has a new connection: what is stored may have gone back. Answers no order.
    Reconnected,
    /// The process must end.
    Fatal(anyhow::Error),
}

/// The worker's parts.
pub struct Worker {
    /// Where batches go.
    store: Store,
    /// Counted after commit.
    metrics: Metrics,
    /// Told when the database comes and goes.
    health: Health,
    /// Beats at every attempt and every wait.
    heartbeat: Heartbeat,
    /// To the consumer thread.
    answers: Sender<Answer>,
    /// A span for each batch, where spans are wanted.
    traces: BatchTraces,
    /// The most events that are tried at once: all, until that was too much.
    largest: usize,
}

impl Worker {
    /// A worker that counts in `store` and tells the consumer thread through `answers`.
    pub fn new(store: Store, metrics: Metrics, health: Health, answers: Sender<Answer>) -> Self {
        let heartbeat = health.heartbeat("worker", HEARTBEAT_LIMIT);
        let traces = BatchTraces::default();
        Self { store, metrics, health, heartbeat, answers, traces, largest: usize::MAX }
    }

    /// The same, with a span for each batch.
    #[must_use]
    pub fn traced(self, traces: BatchTraces) -> Self {
        Self { traces, ..self }
    }

    /// Works until the consumer thread hangs up.
    pub async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        let mut connects = 0;
        loop {
            self.heartbeat.beat();
            if self.store.connects() != connects {
                connects = self.store.connects();
                if self.answers.send(Answer::Reconnected).is_err() {
                    return;
                }
            }
            let order = tokio::select! {
                order = orders.recv() => order,
                () = tokio::time::sleep(PING_AFTER) => {
                    self.ping().await;
                    continue;
                }
            };
            let answer = match order {
                None => return,
                Some(Order::Offsets(partitions)) => self.offsets(partitions).await,
                Some(Order::Apply(batch, links, given_up)) => {
                    let span = self.traces.batch(&batch, links);
                    let answer = self.apply(batch, span.as_ref(), &given_up).await;
                    if let Some(span) = span {
                        span.end(&answer);
                    }
                    answer
                }
                Some(Order::Skip { partition, from, to }) => self.skip(partition, from, to).await,
            };
            if self.answers.send(answer).is_err() {
                return;
            }
        }
    }

    /// With nothing to do: is the database there? A worker without partitions never asks
    /// otherwise, and a connection that died in silence is better found before the next like.
    async fn ping(&mut self) {
        match self.store.ping().await {
            Ok(()) => self.database_answers(),
            Err(error) if self.health.unmet(DATABASE, "it did not answer while there was nothing to do") => {
                warn!(%error, "PostgreSQL does not answer");
            }
            Err(_) => {}
        }
    }

    async fn offsets(&mut self, partitions: Vec<i32>) -> Answer {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            match self.store.offsets(&partitions).await {
                Ok(offsets) => {
                    self.database_answers();
                    return Answer::Offsets(partitions, offsets);
                }
                Err(error) if error.is_transient() => self.wait(&error, backoff.pause()).await,
                Err(error) => return Answer::Fatal(anyhow::Error::new(error).context("reading kafka_offset")),
            }
        }
    }

    async fn skip(&mut self, partition: i32, from: i64, to: i64) -> Answer {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            match self.store.skip(partition, from, to).await {
                Ok(()) => {
                    self.database_answers();
                    return Answer::Skipped { partition, from, to };
                }
                Err(error @ ApplyError::Fenced { .. }) => {
                    self.metrics.fenced();
                    warn!(%error, "fenced: the gap is not recorded");
                    return Answer::NotSkipped(partition);
                }
                Err(error) if error.is_transient() => self.wait(&error, backoff.pause()).await,
                Err(error) => return Answer::Fatal(anyhow::Error::new(error).context("recording a gap in the log")),
            }
        }
    }

    /// Applies the batch, in one piece if it can be. Once a part of it is committed the offsets
    /// believed in are another's, so whatever comes between the parts starts the partitions anew.
    async fn apply(&mut self, batch: Batch, span: Option<&BatchSpan>, given_up: &CancellationToken) -> Answer {
        let spans: Vec<_> = batch.spans().iter().map(|(&p, &span)| (p, span)).collect();
        let start_anew = || Answer::StartAnew(spans.iter().map(|(partition, _)| *partition).collect());
        let mut parts = vec![batch];
        fault::reached(Point::BetweenBatches);
        while let Some(mut part) = parts.pop() {
            while part.len() > self.largest
                && let Some(rest) = part.split_off_half()
            {
                parts.push(rest);
            }
            match self.apply_part(&part, span, given_up).await {
                Ok(()) => self.largest = self.largest.saturating_add(self.largest / 8 + 1),
                Err(Refused::TooLarge) => {
                    self.largest = (part.len() / 2).max(1);
                    warn!(events = part.len(), "the database can't apply this many events at once: trying half");
                    parts.push(part);
                }
                Err(Refused::StartAnew) => return start_anew(),
                Err(Refused::Fatal(error)) => return Answer::Fatal(error),
            }
        }
        Answer::Applied(spans)
    }

    async fn apply_part(
        &mut self,
        batch: &Batch,
        span: Option<&BatchSpan>,
        given_up: &CancellationToken,
    ) -> Result<(), Refused> {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let start = Instant::now();
        let mut too_large = 0;
        loop {
            let attempt = span.and_then(|span| span.attempt(batch));
            let result = self.store.apply(batch).await;
            if let Some(attempt) = attempt {
                attempt.end(result.as_ref().err());
            }
            match result {
                Ok(applied) => {
                    fault::reached(Point::AfterCommit);
                    self.database_answers();
                    let took = start.elapsed();
                    debug!(events = batch.len(), partitions = batch.spans().len(), ?applied, ?took, "batch committed");
                    self.metrics.committed(batch, applied, took);
                    return Ok(());
                }
                Err(error @ ApplyError::Fenced { .. }) => {
                    self.metrics.fenced();
                    warn!(%error, "fenced: starting the batch's partitions anew");
                    return Err(Refused::StartAnew);
                }
                Err(error) if error.is_transient() => {
                    self.metrics.retried();
                    let pause = backoff.pause();
                    tokio::select! {
                        () = self.wait(&error, pause) => {}
                        () = given_up.cancelled() => return Err(Refused::StartAnew),
                    }
                    if given_up.is_cancelled() {
                        return Err(Refused::StartAnew);
                    }
                    too_large += u32::from(error.may_be_of_size());
                    if too_large >= HALVE_AFTER && batch.len() > 1 {
                        return Err(Refused::TooLarge);
                    }
                }
                Err(error) => {
                    let context = format!("a batch of {} events can't be applied; no batch is skipped", batch.len());
                    return Err(Refused::Fatal(anyhow::Error::new(error).context(context)));
                }
            }
        }
    }

    async fn wait(&self, error: &ApplyError, pause: Duration) {
        if self.health.unmet(DATABASE, "the last attempt failed and will be repeated") {
            warn!(%error, "PostgreSQL can't do this now: waiting for it and trying again");
        } else {
            debug!(%error, ?pause, "trying again");
        }
        self.heartbeat.beat();
        tokio::time::sleep(pause).await;
    }

    fn database_answers(&self) {
        if self.health.met(DATABASE) {
            info!("PostgreSQL answers");
        }
    }
}
