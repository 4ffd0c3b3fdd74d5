//! The loop of the thread that owns the Kafka consumer. It polls all the time, also while PostgreSQL is down, so that the
//! group keeps this member. Each lane applies one batch at a time; no two of them have records of the same partition. What
//! is collected meanwhile waits for a lane and for the batches before it.

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

use super::collecting::{Collected, Collecting};
use super::group::GroupContext;
use super::partition::Partition;
use crate::apply::worker::{Command, Event};
use crate::metrics::Metrics;
use crate::timing::Timing;

/// The condition under which `/readyz` reports that this member has joined its group.
pub const GROUP: &str = "consumer group";

/// How long to poll while something else is waiting.
pub(super) const BUSY_POLL: Duration = Duration::from_millis(5);
/// With the next batch full, fetching is paused once a batch is in flight for this long.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// When a batch is applied: never while a record of the same partition is in flight.
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
    /// The partitions that the database holds: the group assigns others, too, and they aren't read.
    pub held: Vec<i32>,
    /// The end offset of each partition of a closed topic: records past it aren't folded.
    pub ends: Option<Vec<i64>>,
    pub limits: BatchLimits,
    pub timing: Timing,
    /// The worker of each lane.
    pub lanes: Vec<UnboundedSender<Command>>,
    /// The lanes' results.
    pub events: Receiver<(usize, Event)>,
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
    /// What each lane has; a lane without is idle.
    pub(super) in_flight: BTreeMap<usize, InFlight>,
    /// The partitions that aren't fetched until a batch lands. There are none unless every lane has one in flight.
    pub(super) paused: BTreeSet<i32>,
    /// When the last batch was sent to a lane.
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

/// A batch that a lane has.
pub(super) struct InFlight {
    pub(super) partitions: Vec<i32>,
    since: Instant,
    /// Once cancelled, the worker doesn't retry.
    pub(super) give_up: CancellationToken,
    /// Whether its partitions aren't fetched until it lands, so that other lanes have room.
    held: bool,
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
                Ok((lane, event)) => self.handle(state, lane, event)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => bail!("the worker has ended"),
            }
        }
        self.check_topic(state)?;
        self.rebalance(state)?;
        self.report_offsets(state)?;
        self.verify_logs(state)?;
        self.send_due(state)?;
        if self.is_full(&state.collecting) { self.make_room(state) } else { self.collect(state) }
    }

    /// Whether there is no room for another record. There is room for a batch per lane, and for one more of partitions that
    /// are in flight.
    pub(super) fn is_full(&self, collecting: &Collecting) -> bool {
        collecting.is_full(self.limits.max_events, if self.lanes.len() == 1 { 1 } else { self.lanes.len() + 1 })
    }

    fn idle_lanes(&self, state: &State) -> impl Iterator<Item = usize> {
        (0..self.lanes.len()).filter(|lane| !state.in_flight.contains_key(lane))
    }

    /// The lane to ask about a partition: if one has records of it in flight, its answer comes after those.
    pub(super) fn lane_for(&self, state: &State, partition: i32) -> usize {
        Self::lane_of(state, partition).unwrap_or_else(|| self.any_lane(state))
    }

    /// An idle lane, if there is one.
    pub(super) fn any_lane(&self, state: &State) -> usize {
        self.idle_lanes(state).next().unwrap_or(0)
    }

    /// The lane that has records of this partition in flight.
    pub(super) fn lane_of(state: &State, partition: i32) -> Option<usize> {
        state.in_flight.iter().find(|(_, flight)| flight.partitions.contains(&partition)).map(|(lane, _)| *lane)
    }

    /// Gives what is due to idle lanes.
    fn send_due(&self, state: &mut State) -> anyhow::Result<()> {
        let idle: Vec<_> = self.idle_lanes(state).collect();
        let now = self.until_due(state).is_zero() || self.is_full(&state.collecting);
        let State { collecting, in_flight, .. } = state;
        let is_in_flight = |partition| in_flight.values().any(|flight| flight.partitions.contains(&partition));
        let due = collecting.take_due(idle.len(), self.limits.max_events, now, is_in_flight);
        let since = Instant::now();
        for (lane, Collected { batch, links, .. }) in idle.into_iter().zip(due) {
            state.begun = Some(since);
            let partitions = batch.spans().keys().copied().collect();
            let give_up = CancellationToken::new();
            let apply = Command::Apply(batch, links, give_up.clone());
            state.in_flight.insert(lane, InFlight { partitions, since, give_up, held: false });
            self.command(lane, apply)?;
        }
        Ok(())
    }

    /// The time until a batch that isn't full may begin.
    pub(super) fn until_due(&self, state: &State) -> Duration {
        state.begun.map_or(Duration::ZERO, |begun| self.limits.max_wait.saturating_sub(begun.elapsed()))
    }

    pub(super) fn command(&self, lane: usize, command: Command) -> anyhow::Result<()> {
        self.lanes[lane].send(command).map_err(|_| anyhow!("the worker has ended"))
    }

    /// There is no room, and what is collected waits for a batch in flight. Waits a moment for that, then stops fetching, so
    /// that polling returns no records that would have to be dropped.
    fn make_room(&self, state: &mut State) -> anyhow::Result<()> {
        let unheld = || state.in_flight.values().filter(|flight| !flight.held);
        let slow = unheld().filter(|flight| flight.is_slow()).count();
        if slow == 0
            && let Some(since) = unheld().map(|flight| flight.since.elapsed()).max()
        {
            return self.await_event(state, PAUSE_AFTER.saturating_sub(since));
        }
        let held = state.in_flight.len() - unheld().count();
        // Not right after a partition was assigned: librdkafka may lose one of the two requests. Until then nothing is polled:
        // a record for which there is no place would be read again only once another one comes.
        if state.fetched.is_some_and(|at| at.elapsed() < PAUSE_AFTER) {
            return self.await_event(state, BUSY_POLL);
        }
        if slow > 0 && slow + held < self.lanes.len() {
            return self.hold(state);
        }
        let fetched: BTreeSet<i32> = numbers(&state.partitions, Partition::is_fetched);
        if state.paused.len() < fetched.len() {
            info!("the database is behind: fetching paused");
            self.consumer.pause(&self.list(&fetched)).context("pausing")?;
            state.paused = fetched;
        }
        self.collect(state)
    }

    /// Makes room for the lanes that keep up: the partitions of a lane that doesn't are fetched again, from their stored
    /// offsets, once its batch lands.
    fn hold(&self, state: &mut State) -> anyhow::Result<()> {
        let mut slow = Vec::new();
        for flight in state.in_flight.values_mut().filter(|flight| flight.is_slow()) {
            flight.held = true;
            slow.extend(&flight.partitions);
        }
        slow.retain(|number| state.partitions.get_mut(number).is_some_and(Partition::hold));
        info!(partitions = ?slow, "their batch takes long: they are fetched again after it, so that other lanes go on");
        self.unfetch(state, &slow)?;
        self.rewind(state, slow)
    }

    /// Handles the next event of a lane, if it comes in time.
    pub(super) fn await_event(&self, state: &mut State, limit: Duration) -> anyhow::Result<()> {
        match self.events.recv_timeout(limit) {
            Ok((lane, event)) => self.handle(state, lane, event),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the worker has ended")),
        }
    }

    /// The batch of this lane is committed or given up: nothing stays paused.
    pub(super) fn landed(&self, state: &mut State, lane: usize) -> anyhow::Result<()> {
        state.in_flight.remove(&lane);
        let paused = mem::take(&mut state.paused);
        if !paused.is_empty() {
            info!("fetching resumed");
            self.consumer.resume(&self.list(&paused)).context("resuming")?;
        }
        Ok(())
    }

    pub(super) fn handle(&self, state: &mut State, lane: usize, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Fatal(error) => return Err(error),
            Event::Reconnected => self.compare(state)?,
            Event::Offsets(asked, stored) => self.offsets_read(state, &asked, &stored)?,
            Event::Compared(believed, stored) => self.compared(state, &believed, &stored)?,
            Event::Applied(spans) => {
                for (number, span) in spans {
                    if let Some(partition) = state.partitions.get_mut(&number) {
                        (partition.committed, partition.uncopied) = (Some(span.next), true);
                    }
                }
                self.copy_offsets_when_due(state);
                self.landed(state, lane)?;
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
                self.landed(state, lane)?;
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

impl InFlight {
    fn is_slow(&self) -> bool {
        self.since.elapsed() >= PAUSE_AFTER
    }
}
