//! What is committed: believed here, compared with PostgreSQL now and then, copied to Kafka for lag
//! tools, and told as lag.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::log_changes::ASK_TIMEOUT;
use super::{BROKERS, ConsumerThread, State};
use crate::apply::transaction::StoredOffset;
use crate::apply::worker::Order;
use crate::fold::batch::Span;

/// How often the copy of the offsets is committed to Kafka.
const COPY_INTERVAL: Duration = Duration::from_secs(1);

impl ConsumerThread {
    /// Notes what a batch has moved of the partitions that are ours, or were until this moment.
    pub(super) fn committed(&self, state: &mut State, spans: &[(i32, Span)], until_now: &[i32]) {
        for (partition, span) in spans {
            if state.assigned.contains(partition) || until_now.contains(partition) {
                state.committed.insert(*partition, span.next);
                state.to_copy.insert(*partition, span.next);
            }
        }
        if state.copied.is_none_or(|at| at.elapsed() >= COPY_INTERVAL) {
            self.copy_offsets(state);
        }
    }

    /// Commits to Kafka what is committed in PostgreSQL: a copy, for lag tools. Once a second is
    /// enough for them, and a rebalance waits for commits that are under way.
    pub(super) fn copy_offsets(&self, state: &mut State) {
        let mut list = TopicPartitionList::with_capacity(state.to_copy.len());
        for (partition, next) in mem::take(&mut state.to_copy) {
            let added = list.add_partition_offset(&self.topic, partition, Offset::Offset(next));
            debug_assert!(added.is_ok());
        }
        state.copied = Some(Instant::now());
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            debug!(%error, "the copy of the offsets was not committed to Kafka");
        }
    }

    /// What has to be done now and then rather than at once: lag, brokers, the offsets' copy.
    pub(super) fn housekeeping(&self, state: &mut State) -> anyhow::Result<()> {
        if !state.to_copy.is_empty() && state.copied.is_none_or(|at| at.elapsed() >= COPY_INTERVAL) {
            self.copy_offsets(state);
        }
        self.retry_refused(state)?;
        if state.compared.get_or_insert_with(Instant::now).elapsed() >= self.timing.compare_offsets {
            self.compare(state)?;
        }
        let Some(mut report) = self.consumer.context().new_report() else {
            return Ok(());
        };
        if report.brokers_up {
            if self.health.met(BROKERS) {
                info!("Kafka answers");
            }
        } else if self.health.unmet(BROKERS, "no broker can be reached") {
            warn!("no broker can be reached: waiting");
        }
        self.find_doubts(state, &report)?;
        self.ask_ends(state, &mut report.log_ends);
        for (partition, next) in &state.committed {
            if let Some(end) = report.log_ends.get(partition) {
                self.metrics.lag(*partition, (end - next).max(0));
            }
        }
        Ok(())
    }

    /// Of partitions that aren't fetched librdkafka learns no ends: they are asked for, all at once.
    fn ask_ends(&self, state: &State, ends: &mut HashMap<i32, i64>) {
        let mut list = TopicPartitionList::new();
        for partition in state.paused.iter().chain(state.stopped.keys()) {
            let added = list.add_partition_offset(&self.topic, *partition, Offset::End);
            debug_assert!(added.is_ok());
        }
        if list.count() == 0 {
            return;
        }
        match self.consumer.offsets_for_times(list, ASK_TIMEOUT) {
            Ok(list) => ends.extend(list.elements().iter().filter_map(|element| match element.offset() {
                Offset::Offset(end) => Some((element.partition(), end)),
                _ => None,
            })),
            Err(error) => debug!(%error, "the logs' ends are not known"),
        }
    }

    /// Reads the stored offsets again: a failover or a restored backup may have lost the last ones,
    /// an operator may have set them, and no record need come to show it.
    pub(super) fn compare(&self, state: &mut State) -> anyhow::Result<()> {
        state.compared = Some(Instant::now());
        if state.comparing || state.committed.is_empty() {
            return Ok(());
        }
        state.comparing = true;
        self.order(Order::Offsets(state.committed.keys().copied().collect()))
    }

    /// Whether a partition of ours stands elsewhere than what was committed, batches answered before
    /// included. Where a stopped one stands, an operator may also have declared the log to be right, or
    /// have folded it.
    pub(super) fn has_moved(state: &State, partition: i32, stored: Option<&StoredOffset>) -> bool {
        let Some(committed) = state.committed.get(&partition) else {
            return false; // revoked meanwhile
        };
        let Some(stored) = stored else {
            return true;
        };
        let time = stored.last_record_time.map(|time| time.timestamp_millis());
        let accepted = state.stopped.get(&partition).is_some_and(|why| why.is_settled_by(time));
        stored.next_offset != *committed || accepted
    }
}
