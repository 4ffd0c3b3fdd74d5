//! The committed offsets: copied to Kafka for lag tools, compared with PostgreSQL once per interval, and reported as lag.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::group::ReportedEnds;
use super::log_check::ASK_TIMEOUT;
use super::thread::{ConsumerThread, State, numbers};
use crate::apply::transaction::StoredOffset;
use crate::apply::worker::Command;

/// The condition that a broker can be reached, which is assumed until the first report.
const BROKERS: &str = "kafka";
/// How often offsets are copied to Kafka: often enough for lag tools. A rebalance waits for commits in progress.
const COPY_INTERVAL: Duration = Duration::from_secs(1);

impl ConsumerThread {
    pub(super) fn copy_offsets_when_due(&self, state: &mut State) {
        if state.copied.is_none_or(|at| at.elapsed() >= COPY_INTERVAL) {
            self.copy_offsets(state);
        }
    }

    /// Commits to Kafka the offsets that are committed in PostgreSQL.
    pub(super) fn copy_offsets(&self, state: &mut State) {
        let mut list = TopicPartitionList::new();
        for (&number, partition) in &mut state.partitions {
            if std::mem::take(&mut partition.uncopied)
                && let Some(next) = partition.committed
            {
                let added = list.add_partition_offset(&self.topic, number, Offset::Offset(next));
                debug_assert!(added.is_ok());
            }
        }
        if list.count() > 0 {
            state.copied = Some(Instant::now());
            if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
                debug!(%error, "the copy of the offsets was not committed to Kafka");
            }
        }
    }

    /// Does what is due: copies and compares offsets, reports lag and whether brokers are up.
    pub(super) fn report_offsets(&self, state: &mut State) -> anyhow::Result<()> {
        self.copy_offsets_when_due(state);
        self.retry_without_row(state)?;
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
        self.check_membership(state, &report)?;
        self.verify_reported(state, &report)?;
        self.ask_ends(state, &mut report.log_ends);
        for (number, partition) in &mut state.partitions {
            let Some(ends) = report.log_ends.get(number) else { continue };
            if let Some(lag) = partition.lag(*ends) {
                self.metrics.lag(*number, lag);
            }
            if let Some(written) = ends.written {
                self.metrics.held_back(*number, (written - ends.stable).max(0));
            }
        }
        Ok(())
    }

    /// Requests, all at once, the stable ends of partitions that aren't fetched: librdkafka doesn't report them.
    fn ask_ends(&self, state: &State, ends: &mut HashMap<i32, ReportedEnds>) {
        let mut list = TopicPartitionList::new();
        let paused = state.paused.iter().copied();
        let unread: Vec<_> = numbers(&state.partitions, |p| p.committed.is_some() && !p.is_fetched());
        for number in paused.chain(unread) {
            let added = list.add_partition_offset(&self.topic, number, Offset::End);
            debug_assert!(added.is_ok());
        }
        if list.count() == 0 {
            return;
        }
        match self.consumer.offsets_for_times(list, ASK_TIMEOUT) {
            Ok(list) => ends.extend(list.elements().iter().filter_map(|element| match element.offset() {
                Offset::Offset(stable) => {
                    Some((element.partition(), ReportedEnds { stable, written: None, all_polled: false }))
                }
                _ => None,
            })),
            Err(error) => debug!(%error, "the logs' ends are not known"),
        }
    }

    /// Reads the stored offsets again. A failover, a restored backup or an operator may have changed them, and without new
    /// records no batch would be fenced.
    pub(super) fn compare(&self, state: &mut State) -> anyhow::Result<()> {
        state.compared = Some(Instant::now());
        // A batch in flight is fenced by its own offsets.
        let settled = |number: i32| Self::lane_of(state, number).is_none();
        let believed = state.partitions.iter().filter_map(|(&number, p)| Some((number, p.committed?)));
        let believed: Vec<_> = believed.filter(|(number, _)| settled(*number)).collect();
        if state.comparing || believed.is_empty() {
            return Ok(());
        }
        state.comparing = true;
        self.command(self.any_lane(state), Command::Compare(believed))
    }

    /// The stored offsets are read, of partitions that had these offsets committed when they were asked for: rewinds those
    /// whose offsets another process has changed.
    pub(super) fn compared(
        &self,
        state: &mut State,
        believed: &[(i32, i64)],
        stored: &[StoredOffset],
    ) -> anyhow::Result<()> {
        state.comparing = false;
        let mut moved = Vec::new();
        for (number, believed) in believed {
            // Not if a batch was committed, or may have been, since.
            let Some(partition) = state.partitions.get(number) else { continue };
            let settled = partition.committed == Some(*believed) && Self::lane_of(state, *number).is_none();
            let stored = stored.iter().find(|stored| stored.partition == *number);
            if settled && !partition.is_awaiting_offset() && partition.has_moved(stored) {
                moved.push(*number);
            }
        }
        if !moved.is_empty() {
            warn!(partitions = ?moved, "kafka_offset was changed by another process: rewinding to it");
        }
        self.rewind(state, moved)
    }
}
