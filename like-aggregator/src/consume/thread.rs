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

/// The batch that is being filled.
#[derive(Default)]
pub(super) struct Collecting {
    pub(super) batch: Batch,
    pub(super) links: Links,
    /// Partitions with a hole in their offsets, to be read again from in front of it.
    pub(super) reread: Vec<i32>,
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
        let batches = if self.lanes.len() == 1 { 1 } else { self.lanes.len() + 1 };
        collecting.batch.is_full(self.limits.max_events * batches)
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

    /// Gives what is collected to idle lanes, once it is due. One lane takes all while that is at most a batch, so that a
    /// quiet system makes one transaction where a busy one makes several.
    fn send_due(&self, state: &mut State) -> anyhow::Result<()> {
        let (batch, max) = (&state.collecting.batch, self.limits.max_events);
        let full = self.is_full(&state.collecting);
        let waited = self.until_due(state).is_zero();
        let idle: Vec<_> = self.idle_lanes(state).collect();
        if batch.is_empty() || idle.is_empty() || !(full || waited || batch.len() >= max) {
            return Ok(());
        }
        let mut ready = batch.lengths();
        ready.retain(|&partition, _| Self::lane_of(state, partition).is_none());
        let records: usize = ready.values().sum();
        if ready.is_empty() || !(full || waited || records >= max) {
            return Ok(());
        }
        let groups = evenly(ready, records.div_ceil(max).min(idle.len()), max);
        let batches = state.collecting.batch.take_groups(&groups);
        let now = Instant::now();
        state.begun = Some(now);
        for ((lane, partitions), batch) in idle.into_iter().zip(groups).zip(batches) {
            let links = state.collecting.links.take_group(&partitions);
            let give_up = CancellationToken::new();
            let apply = Command::Apply(batch, links, give_up.clone());
            state.in_flight.insert(lane, InFlight { partitions, since: now, give_up, held: false });
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

impl Collecting {
    pub(super) fn drop_partition(&mut self, partition: i32) {
        self.batch.remove_partition(partition);
        self.links.forget(partition);
        self.reread.retain(|of| *of != partition);
    }
}

impl InFlight {
    fn is_slow(&self) -> bool {
        self.since.elapsed() >= PAUSE_AFTER
    }
}

/// Spreads partitions with so many records over `groups`, up to `max` records in each; a group has at least one partition.
fn evenly(records: BTreeMap<i32, usize>, groups: usize, max: usize) -> Vec<Vec<i32>> {
    let mut by_size: Vec<_> = records.into_iter().map(|(partition, records)| (records, partition)).collect();
    by_size.sort_unstable_by(|a, b| b.cmp(a));
    let mut spread = vec![(0, Vec::new()); groups.min(by_size.len())];
    for (records, partition) in by_size {
        if let Some((sum, group)) = spread.iter_mut().min_by_key(|(sum, _)| *sum)
            && (group.is_empty() || *sum + records <= max)
        {
            *sum += records;
            group.push(partition);
        }
    }
    spread.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_even_and_no_larger_than_a_batch() {
        let records = |sizes: &[usize]| (0..).zip(sizes.iter().copied()).collect::<BTreeMap<i32, usize>>();
        assert_eq!(evenly(records(&[5, 3, 4, 2]), 2, 10), [vec![0, 3], vec![2, 1]]);
        assert_eq!(evenly(records(&[6, 5, 4]), 1, 10), [[0, 2]], "the other one waits");
        assert_eq!(evenly(records(&[60]), 2, 10), [[0]], "the worker cuts it");
    }
}
