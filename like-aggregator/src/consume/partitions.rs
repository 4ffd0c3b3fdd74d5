//! Which partitions are ours and from where they are read: assigned once PostgreSQL has said the
//! offset, given back after the batch in flight had its moment, started anew after a fence.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{error, info, warn};

use super::group::Rebalanced;
use super::position::Position;
use super::{BUSY_POLL, ConsumerThread, GROUP, OFFSETS, State};
use crate::apply::transaction::StoredOffset;
use crate::apply::worker::{Answer, Order};

/// What a batch in flight is given when its partition is revoked, before the group goes on.
const REVOKE_WAIT: Duration = Duration::from_secs(1);
/// What it is given at shutdown.
const FINISH_WAIT: Duration = Duration::from_secs(4);
/// What leaving the group may take.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

impl ConsumerThread {
    /// Acts on what the group has given and taken since the last turn.
    pub(super) fn rebalance(&self, state: &mut State) -> anyhow::Result<()> {
        while let Some(event) = self.consumer.context().next_rebalance() {
            match event {
                Rebalanced::Assigned(partitions) => {
                    self.health.met(GROUP);
                    info!(?partitions, "partitions assigned");
                    if partitions.is_empty() {
                        self.start(state, &[], &[])?;
                    }
                    self.want(state, partitions)?;
                }
                Rebalanced::Revoked(partitions) => {
                    info!(?partitions, "partitions revoked");
                    self.give_back(state, &partitions)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets where these partitions stand and asks where they do.
    pub(super) fn want(&self, state: &mut State, partitions: Vec<i32>) -> anyhow::Result<()> {
        if partitions.is_empty() {
            return Ok(());
        }
        for &partition in &partitions {
            state.forget(partition);
            state.wanted.insert(partition);
        }
        self.order(Order::Offsets(partitions))
    }

    /// The stored offsets are known: reads on from there.
    pub(super) fn start(&self, state: &mut State, asked: &[i32], stored: &[StoredOffset]) -> anyhow::Result<()> {
        let (mut known, mut moved) = (Vec::new(), Vec::new());
        let mut refused = false;
        state.comparing = false;
        for &partition in asked {
            let stored = stored.iter().find(|stored| stored.partition == partition);
            if !state.wanted.remove(&partition) {
                if Self::has_moved(state, partition, stored) {
                    moved.push(partition);
                }
                continue;
            }
            let Some(stored) = stored else {
                // Where counting would start is anybody's guess: at the log's start it would count
                // again what was counted, at its end it would lose the rest.
                if state.refused.insert(partition) {
                    error!(partition, topic = self.topic, "no row in kafka_offset: partition refused, its likes wait");
                }
                refused = true;
                continue;
            };
            state.refused.remove(&partition);
            state.stopped.remove(&partition);
            let last = stored.last_record_time.map(|time| time.timestamp_millis());
            state.positions.insert(partition, Position::after(stored.next_offset, last));
            state.committed.insert(partition, stored.next_offset);
            if !state.doubts.iter().any(|doubt| doubt.partition == partition) {
                known.push(partition);
            }
        }
        // Also when there is none: librdkafka waits for this call before it joins anything again.
        if asked.is_empty() || refused || !known.is_empty() {
            self.fetch(state, &known)?;
        }
        self.tell_stopped(state);
        self.tell_refused(state);
        if !moved.is_empty() {
            warn!(partitions = ?moved, "kafka_offset was changed by somebody else: starting anew from there");
        }
        self.want(state, moved)
    }

    /// Has these partitions fetched from their positions, those that are fetched already too: a seek
    /// fails where the offset before lay outside the log.
    pub(super) fn fetch(&self, state: &mut State, partitions: &[i32]) -> anyhow::Result<()> {
        if partitions.iter().any(|partition| state.assigned.contains(partition)) {
            self.unfetch(state, partitions)?;
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            if let Some(position) = state.positions.get(&partition) {
                let offset = Offset::Offset(position.read_from());
                list.add_partition_offset(&self.topic, partition, offset).context("assigning")?;
                state.assigned.insert(partition);
            }
        }
        state.fetched = Some(Instant::now());
        self.consumer.incremental_assign(&list).context("assigning")
    }

    /// Has these partitions fetched no more.
    pub(super) fn unfetch(&self, state: &mut State, partitions: &[i32]) -> anyhow::Result<()> {
        let gone: BTreeSet<i32> = partitions.iter().copied().filter(|p| state.assigned.remove(p)).collect();
        // librdkafka keeps a partition paused when it goes, and when it comes back.
        let paused: BTreeSet<i32> = gone.iter().copied().filter(|p| state.paused.remove(p)).collect();
        if !paused.is_empty() {
            self.consumer.resume(&self.list(&paused)).context("resuming")?;
        }
        self.consumer.incremental_unassign(&self.list(&gone)).context("giving partitions back")
    }

    /// Not ready while a partition of ours isn't read; asks now and then whether its row is there.
    pub(super) fn retry_refused(&self, state: &mut State) -> anyhow::Result<()> {
        if state.refused.is_empty() || state.asked_refused.is_some_and(|at| at.elapsed() < self.timing.refused_retry) {
            return Ok(());
        }
        state.asked_refused = Some(Instant::now());
        let refused = state.refused.iter().copied().filter(|p| !state.wanted.contains(p)).collect();
        self.want(state, refused)
    }

    fn tell_refused(&self, state: &State) {
        if state.refused.is_empty() {
            self.health.met(OFFSETS);
        } else {
            self.health.unmet(OFFSETS, format!("no row in kafka_offset for partitions {:?}", state.refused));
        }
    }

    /// Drops what was collected of these partitions, gives the batch in flight a moment, and lets
    /// the group go on. If that batch commits later all the same, the new owner is fenced and
    /// starts where the batch ended; if the new owner is first, the batch is.
    fn give_back(&self, state: &mut State, partitions: &[i32]) -> anyhow::Result<()> {
        for &partition in partitions {
            state.forget(partition);
            state.wanted.remove(&partition);
            state.refused.remove(&partition);
            state.stopped.remove(&partition);
        }
        state.doubts.retain(|doubt| !partitions.contains(&doubt.partition));
        let deadline = Instant::now() + REVOKE_WAIT;
        while let Some(flight) = &state.in_flight
            && flight.partitions.iter().any(|p| partitions.contains(p))
        {
            match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Answer::Applied(spans)) => {
                    state.in_flight = None;
                    self.committed(state, &spans, partitions);
                    // Nothing in flight means nothing paused, for the partitions that stay too.
                    self.resume(state)?;
                }
                Ok(answer) => self.answered(state, answer)?,
                Err(_) => {
                    flight.give_up.cancel();
                    break;
                }
            }
        }
        self.copy_offsets(state);
        for &partition in partitions {
            state.committed.remove(&partition);
            self.metrics.forget_lag(partition);
        }
        self.tell_refused(state);
        self.tell_stopped(state);
        self.unfetch(state, partitions)
    }

    /// Finishes or gives up the batch in flight, then leaves the group, so that the others need
    /// not wait for this member's session to time out.
    pub(super) fn leave(&self, state: &mut State) {
        // One that came with the last poll still waits for its answer.
        let _ = self.rebalance(state);
        let deadline = Instant::now() + FINISH_WAIT;
        while state.in_flight.is_some() {
            match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Answer::Applied(spans)) => {
                    state.in_flight = None;
                    self.committed(state, &spans, &[]);
                }
                Ok(Answer::Offsets(..) | Answer::Skipped { .. } | Answer::NotSkipped(_) | Answer::Reconnected) => {}
                Ok(Answer::StartAnew(_) | Answer::Fatal(_)) | Err(_) => break,
            }
        }
        if let Some(flight) = state.in_flight.take() {
            flight.give_up.cancel();
        }
        self.copy_offsets(state);
        state.wanted.clear();
        // librdkafka may still wait to be told from where partitions are read.
        let _ = self.consumer.incremental_assign(&TopicPartitionList::new());
        self.consumer.unsubscribe();
        let deadline = Instant::now() + LEAVE_WAIT;
        while Instant::now() < deadline && !state.assigned.is_empty() {
            let _ = self.consumer.poll(BUSY_POLL);
            if self.rebalance(state).is_err() {
                break;
            }
        }
        self.consumer.context().close();
    }

    pub(super) fn list(&self, partitions: &BTreeSet<i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }
}
