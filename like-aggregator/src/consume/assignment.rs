//! Follows the consumer group: fetches an assigned partition once PostgreSQL has returned its stored offset, and gives a
//! revoked one back after the batch in flight had a moment to commit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use tracing::{error, info};

use super::group::Rebalanced;
use super::partition::Partition;
use super::position::Position;
use super::thread::{ConsumerThread, GROUP, InFlight, State, numbers};
use crate::apply::transaction::StoredOffset;
use crate::apply::worker::{Command, Event};
use crate::topic::positions;

/// The condition that each assigned partition has a row in `kafka_offset`.
const OFFSETS: &str = "kafka_offset";
/// How long a revocation waits for the batch in flight.
const REVOKE_WAIT: Duration = Duration::from_secs(1);
/// How long a shutdown waits for it.
const FINISH_WAIT: Duration = Duration::from_secs(4);

impl ConsumerThread {
    pub(super) fn rebalance(&self, state: &mut State) -> anyhow::Result<()> {
        while let Some(event) = self.consumer.context().next_rebalance() {
            match event {
                Rebalanced::Assigned(mut partitions) => {
                    self.health.met(GROUP);
                    info!(?partitions, "partitions assigned");
                    partitions.retain(|partition| self.held.contains(partition));
                    state.outside = None;
                    if partitions.is_empty() {
                        // librdkafka waits for this call before it joins again.
                        self.fetch(state, Vec::new())?;
                    }
                    for &partition in &partitions {
                        state.partitions.entry(partition).or_insert_with(Partition::assigned);
                    }
                    self.rewind(state, partitions)?;
                }
                Rebalanced::Revoked { partitions, lost } => {
                    info!(?partitions, "partitions revoked");
                    if lost {
                        self.outside(state, "membership lost");
                    }
                    self.give_back(state, &partitions)?;
                }
            }
        }
        Ok(())
    }

    /// Drops the collected records of these partitions and requests their stored offsets, to continue from there.
    pub(super) fn rewind(&self, state: &mut State, mut partitions: Vec<i32>) -> anyhow::Result<()> {
        partitions.retain(|number| state.partitions.get_mut(number).is_some_and(Partition::rewind));
        if partitions.is_empty() {
            return Ok(());
        }
        let mut by_lane: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            state.collecting.drop_partition(partition);
            by_lane.entry(self.lane_for(state, partition)).or_default().push(partition);
        }
        by_lane.into_iter().try_for_each(|(lane, partitions)| self.command(lane, Command::Offsets(partitions)))
    }

    /// The stored offsets of the partitions in `asked` are read: fetches those that wait for them.
    pub(super) fn offsets_read(&self, state: &mut State, asked: &[i32], stored: &[StoredOffset]) -> anyhow::Result<()> {
        let (mut known, mut unfetched, mut missing) = (Vec::new(), Vec::new(), false);
        for &number in asked {
            let Some(partition) = state.partitions.get_mut(&number).filter(|p| p.is_awaiting_offset()) else {
                continue;
            };
            if let Some(stored) = stored.iter().find(|stored| stored.partition == number) {
                known.extend(partition.offset_known(stored).map(|position| (number, position)));
            } else {
                if partition.is_fetched() {
                    unfetched.push(number);
                }
                if partition.offset_missing() {
                    let topic = &self.topic;
                    error!(partition = number, topic, "no row in kafka_offset: the partition is not read");
                }
                missing = true;
            }
        }
        if !unfetched.is_empty() {
            self.unfetch(state, &unfetched)?;
        }
        // Also without any: librdkafka waits for this call before it joins again.
        if missing || !known.is_empty() {
            self.fetch(state, known)?;
        }
        self.report_unread(state);
        Ok(())
    }

    /// Fetches these partitions from these positions. One that is fetched already is removed and added again, since a seek
    /// fails if the previous offset was outside the log.
    pub(super) fn fetch(&self, state: &mut State, starts: Vec<(i32, Position)>) -> anyhow::Result<()> {
        let fetched = |n: &i32| state.partitions.get(n).is_some_and(Partition::is_fetched);
        let again: Vec<_> = starts.iter().map(|(number, _)| *number).filter(fetched).collect();
        if !again.is_empty() {
            self.unfetch(state, &again)?;
        }
        let mut offsets = Vec::with_capacity(starts.len());
        for (number, position) in starts {
            if let Some(partition) = state.partitions.get_mut(&number) {
                offsets.push((number, position.read_from()));
                partition.fetch_from(position);
            }
        }
        state.fetched = Some(Instant::now());
        let list = positions(&self.topic, offsets).context("assigning")?;
        self.consumer.incremental_assign(&list).context("assigning")
    }

    pub(super) fn unfetch(&self, state: &mut State, partitions: &[i32]) -> anyhow::Result<()> {
        // librdkafka keeps a partition paused after it is unassigned, and when it is assigned again.
        let paused: Vec<_> = partitions.iter().copied().filter(|partition| state.paused.remove(partition)).collect();
        if !paused.is_empty() {
            self.consumer.resume(&self.list(&paused)).context("resuming")?;
        }
        self.consumer.incremental_unassign(&self.list(partitions)).context("giving partitions back")
    }

    /// Requests the stored offsets of partitions without a row again, once per interval.
    pub(super) fn retry_without_row(&self, state: &mut State) -> anyhow::Result<()> {
        if state.retried.is_some_and(|at| at.elapsed() < self.timing.refused_retry)
            || !state.partitions.values().any(Partition::is_without_offset_row)
        {
            return Ok(());
        }
        let again = numbers(&state.partitions, |p| p.is_without_offset_row() && !p.is_awaiting_offset());
        state.retried = Some(Instant::now());
        self.rewind(state, again)
    }

    pub(super) fn report_unread(&self, state: &State) {
        let without_row: BTreeSet<i32> = numbers(&state.partitions, Partition::is_without_offset_row);
        self.report_stopped(state, without_row.len());
        if without_row.is_empty() {
            self.health.met(OFFSETS);
        } else {
            self.health.unmet(OFFSETS, format!("no row in kafka_offset for partitions {without_row:?}"));
        }
    }

    /// Drops the collected records of these partitions, waits a moment for the batch in flight, and lets the group
    /// continue. If that batch commits later, the new owner is fenced and rewinds to its end; if the new owner commits
    /// first, the batch is fenced.
    fn give_back(&self, state: &mut State, partitions: &[i32]) -> anyhow::Result<()> {
        for number in partitions {
            state.partitions.get_mut(number).into_iter().for_each(Partition::revoke);
            state.collecting.drop_partition(*number);
        }
        let deadline = Instant::now() + REVOKE_WAIT;
        let is_revoked = |flight: &&InFlight| flight.partitions.iter().any(|partition| partitions.contains(partition));
        while state.in_flight.values().any(|flight| is_revoked(&flight)) {
            let Ok((lane, event)) = self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) else {
                state.in_flight.values().filter(is_revoked).for_each(|flight| flight.give_up.cancel());
                break;
            };
            self.handle(state, lane, event)?;
        }
        self.copy_offsets(state);
        let mut unfetched = Vec::new();
        for number in partitions {
            if state.partitions.remove(number).is_some_and(|partition| partition.is_fetched()) {
                unfetched.push(*number);
            }
            self.metrics.forget_partition(*number);
        }
        self.report_unread(state);
        self.unfetch(state, &unfetched)
    }

    /// Finishes or gives up the batches in flight and answers pending rebalances. Closing the consumer then leaves the
    /// group, so its other members need not wait for this one's session to time out.
    ///
    /// Partitions aren't given back one by one first: a consumer that is closed before librdkafka has removed them (2.12 does
    /// that in the background) doesn't tell the group that it leaves.
    pub(super) fn leave(&self, state: &mut State) {
        let deadline = Instant::now() + FINISH_WAIT;
        while !state.in_flight.is_empty() {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((lane, event @ Event::Applied(_))) => drop(self.handle(state, lane, event)),
                Ok((lane, Event::Rewind(_) | Event::Fatal(_))) => drop(self.landed(state, lane)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        state.in_flight.values().for_each(|flight| flight.give_up.cancel());
        self.copy_offsets(state);
        state.partitions.keys().for_each(|&number| self.metrics.forget_partition(number));
        // An assignment is answered only once its offsets are read.
        let _ = self.consumer.incremental_assign(&TopicPartitionList::new());
        self.consumer.context().close(&self.consumer);
    }
}
