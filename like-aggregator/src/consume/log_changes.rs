//! When the log is no longer the one that was folded: cut at its start by retention, shorter than
//! what was folded, or another one under the same name. A partition that may be such a one is
//! taken out of fetching, its stored offset is read again and compared with the log's ends. What
//! retention removed becomes a recorded gap; anything else stops this partition, and only this.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use tracing::{debug, error, info, warn};

use super::group::Report;
use super::position::Position;
use super::{ConsumerThread, LOG, State};
use crate::apply::worker::Order;
use crate::fold::batch::Millis;

/// How often the ends of a doubtful partition's log are asked for.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long for an answer. The thread waits for it; the broker gives it only after the one to a
/// fetch that is under way, which may take half a second.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// After an error that names no partition: for so many of librdkafka's reports the partition that
/// it has stopped to fetch is looked for.
const REPORTS: u8 = 3;

/// A partition that isn't fetched until it is clear where it stands in its log.
pub(super) struct Doubt {
    pub(super) partition: i32,
    /// The record that was folded last wasn't there when it was looked for.
    missing: bool,
    /// The log has ended before the stored offset since then.
    beyond: Option<Instant>,
}

/// Why a partition has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The log ends before what was folded.
    BeyondEnd { next: i64, end: i64 },
    /// The record that was folded last is another one now.
    Differs { offset: i64, folded: Millis, found: Millis },
    /// It isn't there any more, though the log goes further back.
    Missing { offset: i64, start: i64 },
}

impl Stopped {
    /// Whether it was found by the timestamp of the record that was folded last.
    pub(super) fn is_by_time(self) -> bool {
        !matches!(self, Self::BeyondEnd { .. })
    }

    /// Whether it is over at the same offset, now that the record before that is stored with this
    /// timestamp: unknown, as `offsets reset` leaves it, or another one, as `rebuild` does.
    pub(super) fn is_settled_by(self, stored: Option<Millis>) -> bool {
        match self {
            Self::BeyondEnd { .. } => false,
            Self::Differs { folded, .. } => stored != Some(folded),
            Self::Missing { .. } => stored.is_none(),
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondEnd { next, end } => write!(f, "it is folded up to {next} and its log ends at {end}")?,
            Self::Differs { offset, folded, found } => write!(
                f,
                "the record at {offset} that was folded has the timestamp {folded}, and the one that is there now {found}"
            )?,
            Self::Missing { offset, start } => {
                write!(
                    f,
                    "the record at {offset} was folded and is no longer there, though the log starts at {start}"
                )?;
            }
        }
        f.write_str(
            ": the topic was cut or made anew, or the database is another topic's. Nothing is skipped: bring the log back, \
             or say where to go on by `like-aggregator offsets reset`, and after that, if only the log that is there \
             shall count, fold it by `like-aggregator rebuild`",
        )
    }
}

impl ConsumerThread {
    /// librdkafka has stopped to fetch a partition whose offset lies outside the log, and doesn't
    /// say which one; its reports do.
    pub(super) fn out_of_range(state: &mut State) {
        state.look_for_outside = REPORTS;
    }

    /// Another topic has come under the same name: what is fetched of it is compared before any of
    /// it is taken. Called in between collecting a batch and sending it off.
    pub(super) fn check_topic(&self, state: &mut State) -> anyhow::Result<()> {
        if !self.consumer.context().topic_has_changed() || state.positions.is_empty() {
            return Ok(());
        }
        warn!(topic = self.topic, "the topic was made anew: comparing with what was folded");
        let partitions = state.positions.keys().copied().collect();
        self.want(state, partitions)
    }

    /// Looks through librdkafka's report for partitions whose place in the log is doubtful.
    pub(super) fn find_doubts(&self, state: &mut State, report: &Report) -> anyhow::Result<()> {
        let mut found = Vec::new();
        if state.look_for_outside > 0 {
            state.look_for_outside -= 1;
            found.extend(state.assigned.iter().copied().filter(|partition| report.not_fetched.contains(partition)));
        }
        // One whose record before the next is where the log ends waits for it in vain, without an error.
        let short = |(partition, position): (&i32, &Position)| {
            let end = report.log_ends.get(partition)?;
            (position.is_unproven() && *end < position.next).then_some(*partition)
        };
        found.extend(state.positions.iter().filter_map(short).filter(|p| state.assigned.contains(p)));
        for partition in found {
            self.doubt(state, partition, false)?;
        }
        Ok(())
    }

    /// Fetches this partition no more, and asks where it stands: in PostgreSQL first.
    pub(super) fn doubt(&self, state: &mut State, partition: i32, missing: bool) -> anyhow::Result<()> {
        if state.doubts.iter().any(|doubt| doubt.partition == partition) {
            return Ok(());
        }
        info!(partition, "its stored offset may lie outside the log: comparing");
        self.unfetch(state, &[partition])?;
        state.doubts.push_back(Doubt { partition, missing, beyond: None });
        self.want(state, vec![partition])
    }

    /// Asks for the log's ends of partitions in doubt, now and then, and acts on the answer.
    pub(super) fn resolve_doubts(&self, state: &mut State) -> anyhow::Result<()> {
        if state.doubts.is_empty() || state.asked_doubts.is_some_and(|at| at.elapsed() < ASK_INTERVAL) {
            return Ok(());
        }
        for _ in 0..state.doubts.len() {
            let Some(mut doubt) = state.doubts.pop_front() else { break };
            let partition = doubt.partition;
            if state.wanted.contains(&partition) {
                state.doubts.push_back(doubt); // its stored offset isn't known yet
                continue;
            }
            let Some(position) = state.positions.get_mut(&partition) else {
                continue; // no longer ours, or refused
            };
            let ends = self.consumer.fetch_watermarks(&self.topic, partition, ASK_TIMEOUT);
            state.asked_doubts = Some(Instant::now());
            let (start, end) = match ends {
                Ok(ends) => ends,
                Err(error) => {
                    debug!(partition, %error, "its log's ends are not known: asking again");
                    state.doubts.push_back(doubt);
                    break; // its turn comes after the others'
                }
            };
            let next = position.next;
            if next < start {
                self.order(Order::Skip { partition, from: next, to: start })?;
            } else if next > end {
                if doubt.beyond.is_none() {
                    warn!(partition, next, end, "the stored offset lies beyond the log's end: waiting");
                }
                if doubt.beyond.get_or_insert_with(Instant::now).elapsed() >= self.timing.beyond_end {
                    self.stop(state, partition, Stopped::BeyondEnd { next, end })?;
                } else {
                    state.doubts.push_back(doubt);
                }
            } else if doubt.missing && position.is_unproven() && next > start {
                self.stop(state, partition, Stopped::Missing { offset: next - 1, start })?;
            } else {
                if next == start {
                    // Retention has removed the record before it, as it may.
                    *position = Position::at(next);
                }
                self.fetch(state, &[partition])?;
            }
        }
        Ok(())
    }

    /// The gap is recorded and the stored offset behind it. The log starts there, so there is no
    /// record before it to compare.
    pub(super) fn skipped(&self, state: &mut State, partition: i32, from: i64, to: i64) -> anyhow::Result<()> {
        error!(
            partition,
            from,
            to,
            "records were gone from the log before they were folded: their likes are lost; recorded in log_gap"
        );
        self.metrics.gap(to - from);
        let Some(position) = state.positions.get_mut(&partition).filter(|position| position.next == from) else {
            return Ok(()); // no longer ours
        };
        *position = Position::at(to);
        state.committed.insert(partition, to);
        state.to_copy.insert(partition, to);
        self.fetch(state, &[partition])
    }

    /// Reads this partition no more, until its stored offset is another one.
    pub(super) fn stop(&self, state: &mut State, partition: i32, why: Stopped) -> anyhow::Result<()> {
        error!(partition, topic = self.topic, "partition stopped: {why}");
        state.forget(partition);
        self.unfetch(state, &[partition])?;
        state.stopped.insert(partition, why);
        self.tell_stopped(state);
        Ok(())
    }

    pub(super) fn tell_stopped(&self, state: &State) {
        let by_time = state.stopped.values().filter(|why| why.is_by_time()).count();
        self.metrics.stopped(state.stopped.len() - by_time, by_time, state.refused.len());
        match state.stopped.first_key_value() {
            None => self.health.met(LOG),
            Some((partition, why)) => {
                let all: Vec<_> = state.stopped.keys().collect();
                self.health.unmet(LOG, format!("partitions {all:?} have stopped; partition {partition}: {why}"))
            }
        };
    }
}
