//! Detects that a log is no longer the one that was folded: retention has removed its start, it is shorter than what was
//! folded, or it is another log under the same name. Such a partition isn't fetched until its stored offset is read again
//! and compared with the log's ends. What retention removed is recorded as a gap; anything else stops this partition and
//! no other.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use tracing::{debug, error, info, warn};

use super::group::LogReport;
use super::partition::Partition;
use super::position::Position;
use super::thread::{ConsumerThread, State, numbers};
use super::verification::{StopReason, Verified};
use crate::apply::worker::Command;

/// The condition that the log of each assigned partition is the one that was folded.
const LOG: &str = "log";
/// How often the end offsets of logs being verified are requested.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for them. The broker answers a fetch that is in progress first, which may take half a second.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of librdkafka's reports in which to look for a partition that it no longer fetches, since its offset lies
/// outside the log: the error doesn't name it.
pub(super) const REPORTS: u8 = 3;

impl ConsumerThread {
    /// After the topic was created again, rewinds its partitions before a record of the new log is folded. Called between
    /// collecting a batch and sending it.
    pub(super) fn check_topic(&self, state: &mut State) -> anyhow::Result<()> {
        if !self.consumer.context().topic_has_changed() {
            return Ok(());
        }
        let read: Vec<_> = numbers(&state.partitions, Partition::has_position);
        if !read.is_empty() {
            warn!(topic = self.topic, "the topic was created again: comparing it with what was folded");
        }
        self.rewind(state, read)
    }

    /// Verifies the partitions whose stored offset may lie outside the log, by librdkafka's report.
    pub(super) fn verify_reported(&self, state: &mut State, report: &LogReport) -> anyhow::Result<()> {
        let stopped_fetching = state.look_for_outside > 0;
        state.look_for_outside = state.look_for_outside.saturating_sub(1);
        let mut found = Vec::new();
        for (number, partition) in &mut state.partitions {
            let not_fetched = stopped_fetching && partition.is_fetched() && report.not_fetched.contains(number);
            // If the log ends before the record to compare, there is neither a record nor an error.
            let ends_early = partition.fetching().is_some_and(|position| {
                position.is_unproven() && report.log_ends.get(number).is_some_and(|ends| ends.stable < position.next)
            });
            if not_fetched || ends_early {
                found.push(*number);
            }
        }
        found.into_iter().try_for_each(|partition| self.verify(state, partition, false))
    }

    /// Stops fetching this partition until its stored offset, read again, is verified.
    pub(super) fn verify(&self, state: &mut State, number: i32, missing: bool) -> anyhow::Result<()> {
        if state.partitions.get_mut(&number).is_some_and(|partition| partition.verify(missing)) {
            info!(partition = number, "the stored offset may lie outside the log: comparing");
            self.unfetch(state, &[number])?;
            self.rewind(state, vec![number])?;
        }
        Ok(())
    }

    /// Requests, once per interval, the log's ends of partitions being verified, and acts on them.
    pub(super) fn verify_logs(&self, state: &mut State) -> anyhow::Result<()> {
        if state.verified.is_some_and(|at| at.elapsed() < ASK_INTERVAL) {
            return Ok(());
        }
        let mut waiting: Vec<_> =
            state.partitions.iter_mut().filter_map(|(&n, p)| Some((p.verifying()?.1.asked, n))).collect();
        waiting.sort_unstable();
        for (_, number) in waiting {
            let Some(partition) = state.partitions.get_mut(&number) else { continue };
            let Some((position, verification)) = partition.verifying() else { continue };
            let ends = self.consumer.fetch_watermarks(&self.topic, number, ASK_TIMEOUT);
            let now = Instant::now();
            state.verified = Some(now);
            verification.asked = Some(now);
            let (start, end) = match ends {
                Ok(ends) => ends,
                Err(error) => {
                    debug!(partition = number, %error, "the log's ends are not known: requesting them again");
                    break; // the others come first next time
                }
            };
            match verification.compare(position, start, end) {
                Verified::Gap { from, to } => {
                    partition.record_gap(from);
                    self.command(self.lane_for(state, number), Command::Skip { partition: number, from, to })?;
                }
                Verified::PastEnd { next, end } => {
                    if verification.past_end.is_none() {
                        warn!(partition = number, next, end, "the stored offset lies past the log's end: waiting");
                    }
                    if verification.past_end.get_or_insert(now).elapsed() >= self.timing.beyond_end {
                        self.stop(state, number, StopReason::PastEnd { next, end })?;
                    }
                }
                Verified::Missing { offset, start } => {
                    self.stop(state, number, StopReason::Missing { offset, start })?;
                }
                Verified::Within => {
                    if position.next == start {
                        // Retention has removed the record before it, so it can't be compared.
                        *position = Position::at(start);
                    }
                    let start = partition.take_position().map(|position| (number, position));
                    self.fetch(state, start.into_iter().collect())?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn gap_recorded(&self, state: &mut State, number: i32, from: i64, to: i64) -> anyhow::Result<()> {
        error!(
            partition = number,
            from,
            to,
            "records were gone from the log before they were folded: their likes are lost; recorded in log_gap"
        );
        self.metrics.gap(to - from);
        if state.partitions.get_mut(&number).is_some_and(|partition| partition.gap_recorded(from, to)) {
            self.fetch(state, vec![(number, Position::at(to))])?;
        }
        Ok(())
    }

    /// Stops reading this partition until its stored offset changes.
    pub(super) fn stop(&self, state: &mut State, number: i32, reason: StopReason) -> anyhow::Result<()> {
        let Some(partition) = state.partitions.get_mut(&number) else { return Ok(()) };
        error!(partition = number, topic = self.topic, "partition stopped: {reason}");
        let was_fetched = partition.stop(reason);
        state.collecting.drop_partition(number);
        if was_fetched {
            self.unfetch(state, &[number])?;
        }
        self.report_unread(state);
        Ok(())
    }

    /// Reports how many partitions aren't read, and which of them have stopped.
    pub(super) fn report_stopped(&self, state: &State, without_row: usize) {
        let stopped = state.partitions.iter().filter_map(|(&number, p)| Some((number, p.stop_reason()?)));
        let stopped: Vec<(i32, StopReason)> = stopped.collect();
        let by_time = stopped.iter().filter(|(_, reason)| reason.is_by_time()).count();
        self.metrics.stopped(stopped.len() - by_time, by_time, without_row);
        match stopped.first() {
            None => self.health.met(LOG),
            Some((partition, reason)) => {
                let all: Vec<_> = stopped.iter().map(|(number, _)| number).collect();
                self.health.unmet(LOG, format!("partitions {all:?} have stopped; partition {partition}: {reason}"))
            }
        };
    }
}
