//! The loop of the thread that owns the Kafka consumer. It polls all the time, also while PostgreSQL is down, so that the
//! group keeps this member. One batch may be in flight while the next one is collected: if the first isn't committed, the
//! fence refuses the second.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use like_common::health::{Health, Heartbeat};
use like_common::traces::Traces;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::group::GroupContext;
use super::partition::Partition;
use crate::apply::worker::{Command, Event};
use crate::fold::Batch;
use crate::metrics::Metrics;
use crate::timing::Timing;
use crate::traces::Links;

/// The condition under which `/readyz` reports that this member has joined its group.
pub const GROUP: &str = "consumer group";

/// How long to poll while something else is waiting.
pub(super) const BUSY_POLL: Duration = Duration::from_millis(5);
/// With the next batch full, fetching is paused once a batch is in flight for this long.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// When a batch is applied. None is while another one is in flight.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// With this many records, at once.
    pub max_events: usize,
    /// With fewer, this long after the last batch was begun: at once on an idle system, and at most so often on a busy one.
    pub max_wait: Duration,
}

pub struct ConsumerThread {
    /// Subscribed by [`ConsumerThread::run`].
    pub consumer: BaseConsumer<GroupContext>,
    pub topic: String,
    /// The end offset of each partition of a closed topic: records past it aren't folded.
    pub ends: Option<Vec<i64>>,
    pub limits: BatchLimits,
    pub timing: Timing,
    pub commands: UnboundedSender<Command>,
    pub events: Receiver<Event>,
    pub traces: Traces,
    pub metrics: Metrics,
    pub health: Health,
    /// Beats at every round of the loop.
    pub heartbeat: Heartbeat,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) partitions: BTreeMap<i32, Partition>,
    pub(super) collecting: Collecting,
    pub(super) in_flight: Option<InFlight>,
    /// When the last batch was sent to the worker.
    pub(super) begun: Option<Instant>,
    /// When fetching of a partition was started last.
    pub(super) fetched: Option<Instant>,
    /// When partitions without an offset row were last read again.
    pub(super) retried: Option<Instant>,
    /// When a log's end offsets were last requested.
    pub(super) verified: Option<Instant>,
    /// The number of further reports in which to look for a partition that librdkafka has stopped fetching.
    pub(super) look_for_outside: u8,
    /// When the committed offsets were last compared with PostgreSQL, and whether a comparison is in progress.
    pub(super) compared: Option<Instant>,
    pub(super) comparing: bool,
    /// When offsets were copied to Kafka last.
    pub(super) copied: Option<Instant>,
    /// Since when this consumer is not a member of its group, though brokers are up.
    pub(super) outside: Option<Instant>,
    /// The last error of the Kafka client since then.
    pub(super) kafka_error: Option<String>,
}

/// The batch that is being filled.
#[derive(Default)]
pub(super) struct Collecting {
    pub(super) batch: Batch,
    pub(super) links: Links,
    /// Partitions with a hole in their offsets, to be read again from in front of it.
    pub(super) reread: Vec<i32>,
}

/// A batch that the worker has. Fetching is paused only while there is one: only this value holds what is paused, and only
/// [`ConsumerThread::landed`] removes it and resumes fetching.
pub(super) struct InFlight {
    pub(super) partitions: Vec<i32>,
    since: Instant,
    /// Once cancelled, the worker doesn't retry.
    pub(super) give_up: CancellationToken,
    pub(super) paused: BTreeSet<i32>,
}

impl ConsumerThread {
    /// Reads until `stop`, then finishes the batch in flight and leaves the group.
    pub fn run(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        self.consumer.subscribe(&[&self.topic]).context("subscribing")?;
        let mut state = State::default();
        let result = loop {
            if stop.is_cancelled() {
                break Ok(());
            }
            self.heartbeat.beat();
            if let Err(error) = self.round(&mut state) {
                break Err(error);
            }
        };
        self.leave(&mut state);
        result
    }

    fn round(&self, state: &mut State) -> anyhow::Result<()> {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.handle(state, event)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => bail!("the worker has ended"),
            }
        }
        self.check_topic(state)?;
        self.rebalance(state)?;
        self.report_offsets(state)?;
        self.verify_logs(state)?;
        if self.is_due(state) {
            if state.in_flight.is_none() {
                self.send_batch(state)?;
            } else if state.collecting.batch.is_full(self.limits.max_events) {
                return self.wait_in_flight(state);
            }
        }
        self.collect(state)
    }

    fn is_due(&self, state: &State) -> bool {
        let batch = &state.collecting.batch;
        let waited = || state.begun.is_none_or(|begun| begun.elapsed() >= self.limits.max_wait);
        batch.is_full(self.limits.max_events) || (!batch.is_empty() && waited())
    }

    fn send_batch(&self, state: &mut State) -> anyhow::Result<()> {
        let (batch, links) = (mem::take(&mut state.collecting.batch), mem::take(&mut state.collecting.links));
        state.begun = Some(Instant::now());
        let give_up = CancellationToken::new();
        let partitions = batch.spans().keys().copied().collect();
        let paused = BTreeSet::new();
        state.in_flight = Some(InFlight { partitions, since: Instant::now(), give_up: give_up.clone(), paused });
        self.command(Command::Apply(batch, links, give_up))
    }

    pub(super) fn command(&self, command: Command) -> anyhow::Result<()> {
        self.commands.send(command).map_err(|_| anyhow!("the worker has ended"))
    }

    /// The next batch is full and one is in flight. Waits a moment for it, then pauses fetching, so that polling returns no
    /// records that would have to be dropped.
    fn wait_in_flight(&self, state: &mut State) -> anyhow::Result<()> {
        let Some(flight) = &mut state.in_flight else { return Ok(()) };
        let since = flight.since.elapsed();
        if since < PAUSE_AFTER {
            return self.await_event(state, PAUSE_AFTER.saturating_sub(since));
        }
        let fetched: BTreeSet<i32> = numbers(&state.partitions, Partition::is_fetched);
        if flight.paused.len() < fetched.len() {
            // Not right after a partition was assigned: librdkafka may lose one of the two requests. Until then nothing is
            // polled: a record for which there is no place would be read again only once another one comes.
            if state.fetched.is_some_and(|at| at.elapsed() < PAUSE_AFTER) {
                return self.await_event(state, BUSY_POLL);
            }
            info!("the database is behind: fetching paused");
            self.consumer.pause(&self.list(&fetched)).context("pausing")?;
            flight.paused = fetched;
        }
        self.collect(state)
    }

    /// Handles the worker's next event, if it comes in time.
    fn await_event(&self, state: &mut State, limit: Duration) -> anyhow::Result<()> {
        match self.events.recv_timeout(limit) {
            Ok(event) => self.handle(state, event),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the worker has ended")),
        }
    }

    /// The batch in flight is committed or given up: nothing stays paused.
    pub(super) fn landed(&self, state: &mut State) -> anyhow::Result<()> {
        if let Some(InFlight { paused, .. }) = state.in_flight.take()
            && !paused.is_empty()
        {
            info!("fetching resumed");
            self.consumer.resume(&self.list(&paused)).context("resuming")?;
        }
        Ok(())
    }

    pub(super) fn handle(&self, state: &mut State, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Fatal(error) => return Err(error),
            Event::Reconnected => self.compare(state)?,
            Event::Offsets(asked, stored) => self.offsets_read(state, &asked, &stored)?,
            Event::Applied(spans) => {
                for (number, span) in spans {
                    if let Some(partition) = state.partitions.get_mut(&number) {
                        (partition.committed, partition.uncopied) = (Some(span.next), true);
                    }
                }
                self.copy_offsets_when_due(state);
                self.landed(state)?;
            }
            Event::Skipped { partition, from, to } => self.gap_recorded(state, partition, from, to)?,
            Event::NotSkipped(partition) => {
                if state.partitions.get(&partition).is_some_and(Partition::is_recording_gap) {
                    self.rewind(state, vec![partition])?;
                }
            }
            Event::Rewind(partitions) => {
                let fetched = |p: &i32| state.partitions.get(p).is_some_and(Partition::is_fetched);
                let partitions = partitions.into_iter().filter(fetched).collect();
                self.landed(state)?;
                self.rewind(state, partitions)?;
            }
        }
        Ok(())
    }

    pub(super) fn list<'a>(&self, partitions: impl IntoIterator<Item = &'a i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }
}

/// Returns the numbers of the partitions for which `has` returns true.
pub(super) fn numbers<C: FromIterator<i32>>(
    partitions: &BTreeMap<i32, Partition>,
    has: impl Fn(&Partition) -> bool,
) -> C {
    partitions.iter().filter(|(_, partition)| has(partition)).map(|(&number, _)| number).collect()
}

impl Collecting {
    pub(super) fn drop_partition(&mut self, partition: i32) {
        self.batch.remove_partition(partition);
        self.links.forget(partition);
        self.reread.retain(|of| *of != partition);
    }
}

impl InFlight {
    /// Removes from the paused partitions those that are no longer fetched, and returns them.
    pub(super) fn unpause(&mut self, gone: &[i32]) -> Vec<i32> {
        gone.iter().copied().filter(|partition| self.paused.remove(partition)).collect()
    }
}
