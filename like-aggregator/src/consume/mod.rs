//! The thread that owns the Kafka consumer: which partitions are ours, which record comes next,
//! when a batch is full. It polls all the time, also while PostgreSQL is away, so that the group
//! knows it is alive. One batch may be in flight while the next is collected: the fence makes
//! that exact. SQL is the worker's, meaning is `batch`'s.

mod bookkeeping;
mod collect;
mod group;
mod log_changes;
mod partitions;
pub(crate) mod position;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use like_common::health::{Health, Heartbeat};
use like_common::traces::Traces;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use self::collect::record;
pub use self::group::{GroupContext, consumer_config};
use self::log_changes::{Doubt, Stopped};
use self::position::Position;
use crate::apply::worker::{Answer, Order};
use crate::fold::batch::Batch;
use crate::metrics::Metrics;
use crate::timing::Timing;
use crate::traces::Links;

/// The condition under which `/readyz` reports that this member has joined its group.
pub const GROUP: &str = "consumer group";
/// That a broker can be reached: told every two seconds, and taken for granted until then.
const BROKERS: &str = "kafka";
/// That each of our partitions has a row to start from.
const OFFSETS: &str = "kafka_offset";
/// That the log of each of our partitions is the one that was folded.
const LOG: &str = "log";

/// Poll time in between.
const BUSY_POLL: Duration = Duration::from_millis(5);
/// A batch in flight for longer than this with the next one full: stop fetching, keep polling.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// When a batch is closed.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// At this many records.
    pub max_events: usize,
    /// Or this long after its first one.
    pub max_wait: Duration,
}

/// The thread's parts.
pub struct ConsumerThread {
    /// The consumer, subscribed by [`ConsumerThread::run`].
    pub consumer: BaseConsumer<GroupContext>,
    /// The one topic it reads.
    pub topic: String,
    /// Where each partition ends, once the topic is closed: what comes behind isn't folded.
    pub ends: Option<Vec<i64>>,
    /// When a batch is closed.
    pub limits: BatchLimits,
    /// How long it waits for what may come right by itself.
    pub timing: Timing,
    /// To the worker.
    pub orders: UnboundedSender<Order>,
    /// From the worker.
    pub answers: Receiver<Answer>,
    /// Whether anybody wants to know which spans published the records.
    pub traces: Traces,
    /// Lag is told per owned partition.
    pub metrics: Metrics,
    /// Told when the group was joined.
    pub health: Health,
    /// Beats at every turn of the loop.
    pub heartbeat: Heartbeat,
}

#[derive(Default)]
struct State {
    /// Partitions that librdkafka fetches for us.
    assigned: BTreeSet<i32>,
    /// Partitions whose stored offset was asked for: newly ours, or starting anew.
    wanted: BTreeSet<i32>,
    /// Where each partition stands; records of any other are dropped.
    positions: BTreeMap<i32, Position>,
    /// Partitions of ours that have no row to start from, and when they were asked for again.
    refused: BTreeSet<i32>,
    asked_refused: Option<Instant>,
    /// Partitions of ours that aren't read, since their log is another one.
    stopped: BTreeMap<i32, Stopped>,
    /// Partitions that may be such ones, and when their logs were asked for last.
    doubts: VecDeque<Doubt>,
    asked_doubts: Option<Instant>,
    /// In so many reports to come, a partition is looked for that is no longer fetched.
    look_for_outside: u8,
    /// What is committed in PostgreSQL, for the lag.
    committed: BTreeMap<i32, i64>,
    /// When it was compared with PostgreSQL last, and whether it is being compared.
    compared: Option<Instant>,
    comparing: bool,
    /// What of it Kafka hasn't got yet, and when it got something last.
    to_copy: BTreeMap<i32, i64>,
    copied: Option<Instant>,
    collecting: Batch,
    /// Of what is being collected.
    links: Links,
    first_at: Option<Instant>,
    in_flight: Option<InFlight>,
    /// Partitions that are looked at for the first time behind a hole.
    looking: Vec<i32>,
    paused: BTreeSet<i32>,
    /// When fetching was begun last.
    fetched: Option<Instant>,
}

struct InFlight {
    partitions: Vec<i32>,
    since: Instant,
    give_up: CancellationToken,
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
            if let Err(error) = self.turn(&mut state) {
                break Err(error);
            }
        };
        self.leave(&mut state);
        result
    }

    /// One turn: answers, rebalances, a full batch, then records.
    fn turn(&self, state: &mut State) -> anyhow::Result<()> {
        loop {
            match self.answers.try_recv() {
                Ok(answer) => self.answered(state, answer)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => bail!("the worker has ended"),
            }
        }
        self.check_topic(state)?;
        self.rebalance(state)?;
        self.housekeeping(state)?;
        self.resolve_doubts(state)?;
        if self.is_due(state) {
            if state.in_flight.is_none() {
                self.send_off(state)?;
            } else if state.collecting.is_full(self.limits.max_events) {
                return self.wait_in_flight(state);
            }
        }
        self.collect(state)
    }

    fn is_due(&self, state: &State) -> bool {
        let waited = state.first_at.is_some_and(|first| first.elapsed() >= self.limits.max_wait);
        waited || state.collecting.is_full(self.limits.max_events)
    }

    fn send_off(&self, state: &mut State) -> anyhow::Result<()> {
        let (batch, links) = (mem::take(&mut state.collecting), mem::take(&mut state.links));
        state.first_at = None;
        if batch.is_empty() {
            return Ok(());
        }
        let give_up = CancellationToken::new();
        let partitions = batch.spans().keys().copied().collect();
        state.in_flight = Some(InFlight { partitions, since: Instant::now(), give_up: give_up.clone() });
        self.order(Order::Apply(batch, links, give_up))
    }

    fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders.send(order).map_err(|_| anyhow!("the worker has ended"))
    }

    /// The next batch is full and the one before isn't through. For a moment, just wait; then
    /// pause fetching, so that polling on brings no records that there is no room for.
    fn wait_in_flight(&self, state: &mut State) -> anyhow::Result<()> {
        let since = state.in_flight.as_ref().map_or(Duration::ZERO, |flight| flight.since.elapsed());
        if since < PAUSE_AFTER {
            return match self.answers.recv_timeout(PAUSE_AFTER.saturating_sub(since)) {
                Ok(answer) => self.answered(state, answer),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the worker has ended")),
            };
        }
        // Not right after a partition was assigned: librdkafka may lose one of the two.
        if state.fetched.is_none_or(|at| at.elapsed() >= PAUSE_AFTER) && state.paused.len() < state.assigned.len() {
            info!("the database is behind: fetching paused");
            self.consumer.pause(&self.list(&state.assigned)).context("pausing")?;
            state.paused.clone_from(&state.assigned);
        }
        self.collect(state)
    }

    fn resume(&self, state: &mut State) -> anyhow::Result<()> {
        if !state.paused.is_empty() {
            info!("fetching resumed");
            self.consumer.resume(&self.list(&mem::take(&mut state.paused))).context("resuming")?;
        }
        Ok(())
    }

    fn answered(&self, state: &mut State, answer: Answer) -> anyhow::Result<()> {
        match answer {
            Answer::Fatal(error) => return Err(error),
            Answer::Reconnected => self.compare(state)?,
            Answer::Offsets(asked, stored) => self.start(state, &asked, &stored)?,
            Answer::Applied(spans) => {
                state.in_flight = None;
                self.committed(state, &spans, &[]);
                self.resume(state)?;
            }
            Answer::Skipped { partition, from, to } => self.skipped(state, partition, from, to)?,
            Answer::NotSkipped(partition) => {
                if state.positions.contains_key(&partition) {
                    self.want(state, vec![partition])?;
                }
            }
            Answer::StartAnew(partitions) => {
                state.in_flight = None;
                let ours = partitions.into_iter().filter(|p| state.assigned.contains(p)).collect();
                self.want(state, ours)?;
                self.resume(state)?;
            }
        }
        Ok(())
    }
}

impl State {
    /// Drops what is known and collected of a partition.
    fn forget(&mut self, partition: i32) {
        self.positions.remove(&partition);
        self.collecting.remove_partition(partition);
        self.links.forget(partition);
        if self.collecting.is_empty() {
            self.first_at = None;
        }
    }
}
