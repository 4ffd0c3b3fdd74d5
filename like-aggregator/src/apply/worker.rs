//! A lane: executes the consumer thread's commands in order and retries what may succeed later. It never skips a batch: it
//! commits it, has its partitions rewound, or ends the process.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use like_common::backoff::Backoff;
use like_common::health::{Health, Heartbeat};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::error::ApplyError;
use super::transaction::{Store, StoredOffset};
use crate::fault::{self, Point};
use crate::fold::{Batch, Misplaced, Span};
use crate::metrics::Metrics;
use crate::traces::{BatchTraces, Links, Started};

/// The condition under which `/readyz` reports the database.
pub const DATABASE: &str = "postgresql";

/// A loop that doesn't beat for this long counts as dead. It is longer than a batch's deadline.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);

/// After this time without a command, the worker checks that the database answers.
const PING_AFTER: Duration = Duration::from_secs(5);

/// The first and the longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// After this many attempts that took too long or too much memory, the worker tries half the batch.
const HALVE_AFTER: u32 = 2;

enum NotApplied {
    TooLarge,
    Rewind,
    Fatal(anyhow::Error),
}

/// What the consumer thread asks the worker to do.
pub enum Command {
    Offsets(Vec<i32>),
    /// Read the offsets of these partitions, which the thread believes to be at these ones.
    Compare(Vec<(i32, i64)>),
    /// Apply the batch, whose records the linked spans published. Don't retry once the token is cancelled.
    Apply(Batch, Links, CancellationToken),
    /// Record that retention removed the records between the stored offset `from` and the log's start `to` before they were
    /// folded, and move the stored offset past them.
    Skip {
        partition: i32,
        from: i64,
        to: i64,
    },
}

/// The result of a command. Every command has one event, in the same order.
pub enum Event {
    /// The requested partitions, and the offsets of those that have a row.
    Offsets(Vec<i32>, Vec<StoredOffset>),
    /// The partitions of a comparison, and the offsets of those that have a row.
    Compared(Vec<(i32, i64)>, Vec<StoredOffset>),
    /// The batch is committed, with these spans.
    Applied(Vec<(i32, Span)>),
    /// The batch is not applied, or not known to be: rewind its partitions to their stored offsets.
    Rewind(Vec<i32>),
    Skipped {
        partition: i32,
        from: i64,
        to: i64,
    },
    /// The gap is not recorded, since the stored offset has changed.
    NotSkipped(i32),
    /// The store has a new connection, so stored offsets may have gone back. It belongs to no command.
    Reconnected,
    /// The process must end.
    Fatal(anyhow::Error),
}

pub struct Worker {
    store: Store,
    metrics: Metrics,
    health: Health,
    /// Beats at every attempt and every wait.
    heartbeat: Heartbeat,
    lane: usize,
    events: Sender<(usize, Event)>,
    pub traces: BatchTraces,
    /// The number of the topic's partitions, to find misplaced events; None: they aren't looked for.
    pub partitions: Option<i32>,
    /// The most records of a transaction.
    max_events: usize,
    /// The same, lowered after failures of large batches.
    largest: usize,
}

impl Worker {
    /// Returns the worker of this lane, whose transactions have at most `max_events` records.
    pub fn new(
        lane: usize,
        max_events: usize,
        store: Store,
        metrics: Metrics,
        health: &Health,
        events: Sender<(usize, Event)>,
    ) -> Self {
        let (health, traces) = (health.part(lane), BatchTraces::default());
        let heartbeat = health.heartbeat("worker", HEARTBEAT_LIMIT);
        let (partitions, largest) = (None, max_events);
        Self { store, metrics, health, heartbeat, lane, events, traces, partitions, max_events, largest }
    }

    /// Executes commands until the consumer thread drops its sender.
    pub async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let mut connects = 0;
        loop {
            self.heartbeat.beat();
            if self.store.connects() != connects {
                connects = self.store.connects();
                if self.events.send((self.lane, Event::Reconnected)).is_err() {
                    return;
                }
            }
            let command = tokio::select! {
                command = commands.recv() => command,
                () = tokio::time::sleep(PING_AFTER) => {
                    self.ping().await;
                    continue;
                }
            };
            let event = match command {
                None => return,
                Some(Command::Offsets(partitions)) => {
                    let stored = self.offsets(&partitions).await;
                    stored.map_or_else(Event::Fatal, |stored| Event::Offsets(partitions, stored))
                }
                Some(Command::Compare(believed)) => {
                    let partitions: Vec<_> = believed.iter().map(|(partition, _)| *partition).collect();
                    let stored = self.offsets(&partitions).await;
                    stored.map_or_else(Event::Fatal, |stored| Event::Compared(believed, stored))
                }
                Some(Command::Apply(batch, links, given_up)) => {
                    let span = self.traces.batch(&batch, links);
                    let event = self.apply(batch, span.as_ref(), &given_up).await;
                    if let Some(span) = span {
                        span.end(match &event {
                            Event::Fatal(error) => Some(("fatal", format!("{error:#}"))),
                            Event::Rewind(_) => Some(("rewound", "its partitions are rewound".to_owned())),
                            _ => None,
                        });
                    }
                    event
                }
                Some(Command::Skip { partition, from, to }) => self.skip(partition, from, to).await,
            };
            if self.events.send((self.lane, event)).is_err() {
                return;
            }
        }
    }

    /// Checks an idle connection, so that a dead one is found before the next like. A worker without partitions sends
    /// nothing else.
    async fn ping(&mut self) {
        match self.store.ping().await {
            Ok(()) => self.database_answers(),
            Err(error) if self.health.unmet(DATABASE, "an idle connection got no answer") => {
                warn!(%error, "PostgreSQL does not answer");
            }
            Err(_) => {}
        }
    }

    async fn offsets(&mut self, partitions: &[i32]) -> anyhow::Result<Vec<StoredOffset>> {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            match self.store.offsets(partitions).await {
                Ok(offsets) => {
                    self.database_answers();
                    return Ok(offsets);
                }
                Err(error) if error.is_transient() => self.wait(&error, backoff.pause()).await,
                Err(error) => return Err(anyhow::Error::new(error).context("reading kafka_offset")),
            }
        }
    }

    async fn skip(&mut self, partition: i32, from: i64, to: i64) -> Event {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        loop {
            match self.store.skip(partition, from, to).await {
                Ok(()) => {
                    self.database_answers();
                    return Event::Skipped { partition, from, to };
                }
                Err(error @ ApplyError::Fenced { .. }) => {
                    self.metrics.fences.inc();
                    warn!(%error, "fenced: the gap is not recorded");
                    return Event::NotSkipped(partition);
                }
                Err(error) if error.is_transient() => self.wait(&error, backoff.pause()).await,
                Err(error) => return Event::Fatal(anyhow::Error::new(error).context("recording a gap in the log")),
            }
        }
    }

    /// Applies the batch, in one transaction if possible. Once a part is committed, the offsets that the whole expects no
    /// longer hold, so a failure between the parts rewinds the partitions.
    async fn apply(&mut self, batch: Batch, span: Option<&Started>, given_up: &CancellationToken) -> Event {
        let spans: Vec<_> = batch.spans().iter().map(|(&p, &span)| (p, span)).collect();
        let mut parts = vec![batch];
        fault::reached(Point::BetweenBatches);
        while let Some(mut part) = parts.pop() {
            while part.len() > self.largest
                && let Some(rest) = part.split_off_half()
            {
                parts.push(rest);
            }
            match self.apply_part(&part, span, given_up).await {
                Ok(()) => self.largest = self.largest.saturating_add(self.largest / 8 + 1).min(self.max_events),
                Err(NotApplied::TooLarge) => {
                    self.largest = part.len().div_ceil(2);
                    warn!(events = part.len(), "the database can't apply this many events at once: trying half");
                    parts.push(part);
                }
                Err(NotApplied::Rewind) => {
                    return Event::Rewind(spans.into_iter().map(|(partition, _)| partition).collect());
                }
                Err(NotApplied::Fatal(error)) => return Event::Fatal(error),
            }
        }
        Event::Applied(spans)
    }

    async fn apply_part(
        &mut self,
        batch: &Batch,
        span: Option<&Started>,
        given_up: &CancellationToken,
    ) -> Result<(), NotApplied> {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let start = Instant::now();
        let mut too_large = 0;
        loop {
            let attempt = span.and_then(|span| self.traces.attempt(span, batch));
            let result = self.store.apply(batch).await;
            if let Some(attempt) = attempt {
                attempt.end(result.as_ref().err().map(|error| (error.kind(), error.to_string())));
            }
            match result {
                Ok(applied) => {
                    fault::reached(Point::AfterCommit);
                    self.database_answers();
                    let took = start.elapsed();
                    debug!(events = batch.len(), partitions = batch.spans().len(), ?applied, ?took, "batch committed");
                    self.metrics.committed(batch, applied, took);
                    self.report_misplaced(batch);
                    return Ok(());
                }
                Err(error @ ApplyError::Fenced { .. }) => {
                    self.metrics.fences.inc();
                    warn!(%error, "fenced: rewinding the batch's partitions");
                    return Err(NotApplied::Rewind);
                }
                Err(error) if error.is_transient() => {
                    self.metrics.retries.inc();
                    let pause = backoff.pause();
                    tokio::select! {
                        () = self.wait(&error, pause) => {}
                        () = given_up.cancelled() => return Err(NotApplied::Rewind),
                    }
                    if given_up.is_cancelled() {
                        return Err(NotApplied::Rewind);
                    }
                    too_large += u32::from(error.may_be_of_size());
                    if too_large >= HALVE_AFTER && batch.len() > 1 {
                        return Err(NotApplied::TooLarge);
                    }
                }
                Err(error) => {
                    let context = format!("a batch of {} events can't be applied; no batch is skipped", batch.len());
                    return Err(NotApplied::Fatal(anyhow::Error::new(error).context(context)));
                }
            }
        }
    }

    /// Counts misplaced events, and logs the first one.
    fn report_misplaced(&self, batch: &Batch) {
        let Some(found) = self.partitions.and_then(|partitions| batch.misplaced(partitions)) else { return };
        let is_first = self.metrics.misplaced.get() == 0;
        self.metrics.misplaced.inc_by(found.events);
        if is_first {
            let Misplaced { product, partition, due, .. } = found;
            warn!(
                product,
                partition,
                due,
                "event in another partition than its product's: some producer does not partition its records as the \
                 contract says. Further ones are counted by likes_misplaced_events_total"
            );
        }
    }

    async fn wait(&self, error: &ApplyError, pause: Duration) {
        // Another error is another reason: the first one may be over.
        if self.health.unmet(DATABASE, format!("the last attempt failed and will be repeated: {error}")) {
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
