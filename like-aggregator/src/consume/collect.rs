//! Takes records from Kafka into the batch that is being filled.

use std::mem;
use std::time::{Duration, Instant};

use anyhow::bail;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, Timestamp};
use tracing::{debug, warn};

use super::log_check::REPORTS;
use super::partition::Partition;
use super::position::{Position, Step};
use super::thread::{BUSY_POLL, ConsumerThread, State};
use super::verification::StopReason;
use crate::fold::Record;

/// How long to poll with nothing else to do.
const IDLE_POLL: Duration = Duration::from_millis(50);
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

impl ConsumerThread {
    /// Takes the records that were fetched, then seeks back in front of the holes that were seen.
    pub(super) fn collect(&self, state: &mut State) -> anyhow::Result<()> {
        self.take_all(state)?;
        for number in mem::take(&mut state.collecting.reread) {
            let Some(partition) = state.partitions.get_mut(&number) else { continue };
            if let Some(from) = partition.fetching().and_then(Position::reread_from) {
                debug!(partition = number, from, "offsets are missing: reading again");
                if let Err(error) = self.consumer.seek(&self.topic, number, Offset::Offset(from), SEEK_TIMEOUT) {
                    // librdkafka isn't fetching it at the moment.
                    debug!(partition = number, %error, "seeking");
                    let start = partition.take_position().map(|position| (number, position));
                    self.fetch(state, start.into_iter().collect())?;
                }
            }
        }
        Ok(())
    }

    /// Takes the records that were fetched, up to a full batch. A record past that is dropped, and its position stays: the
    /// next record of its partition then shows a hole, which is read again.
    fn take_all(&self, state: &mut State) -> anyhow::Result<()> {
        let idle = state.in_flight.is_empty()
            && state.collecting.is_empty()
            && !state.partitions.values().any(Partition::is_awaiting_offset);
        let mut timeout = if idle { IDLE_POLL } else { Duration::ZERO };
        let start = Instant::now();
        for taken in 0u32.. {
            match self.consumer.poll(timeout) {
                // Not in `poll`, which would wake up for each record though no batch is due yet.
                None if taken == 0 && !idle => {
                    let wait = Some(self.until_due(state)).filter(|wait| !wait.is_zero());
                    return self.await_event(state, wait.map_or(BUSY_POLL, |wait| wait.min(BUSY_POLL)));
                }
                None => return Ok(()),
                Some(Ok(message)) => self.take(state, &message)?,
                Some(Err(error)) => Self::failed(state, &error)?,
            }
            // Reading the clock for every record would take a twentieth of the loop's time.
            let round_over = taken % 64 == 0 && start.elapsed() >= BUSY_POLL;
            if round_over || self.is_full(&state.collecting) {
                return Ok(());
            }
            timeout = Duration::ZERO;
        }
        Ok(())
    }

    fn take(&self, state: &mut State, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
        let (partition, offset) = (message.partition(), message.offset());
        let Some(position) = state.partitions.get_mut(&partition).and_then(Partition::fetching) else {
            return Ok(());
        };
        let past_end = self.ends.as_ref().is_some_and(|ends| offset >= ends[partition as usize]);
        if past_end || self.is_full(&state.collecting) {
            return Ok(());
        }
        let collecting = &mut state.collecting;
        let record = record(message);
        match position.judge(offset, record.time) {
            Step::Skip => {}
            Step::Reread => {
                if !collecting.reread.contains(&partition) {
                    collecting.reread.push(partition);
                }
            }
            Step::Missing => self.verify(state, partition, true)?,
            Step::Differs { folded } => {
                self.stop(state, partition, StopReason::Differs { offset, folded, found: record.time })?;
            }
            Step::Take => {
                let links = collecting.push(&record, position.next, self.limits.max_events);
                if self.traces.tracer().is_some() {
                    links.add(message);
                }
                position.taken(offset);
            }
        }
        Ok(())
    }

    /// Errors of brokers and the network are temporary: librdkafka reports them and tries again.
    fn failed(state: &mut State, failure: &KafkaError) -> anyhow::Result<()> {
        match failure {
            KafkaError::MessageConsumptionFatal(code) => bail!("the Kafka consumer can't continue: {code}"),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => state.look_for_outside = REPORTS,
            _ => {
                warn!(error = %failure, "Kafka");
                state.kafka_error = Some(failure.to_string());
            }
        }
        Ok(())
    }
}

pub(crate) fn record<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    let time = match message.timestamp() {
        Timestamp::NotAvailable => -1,
        Timestamp::CreateTime(time) | Timestamp::LogAppendTime(time) => time,
    };
    let (partition, offset) = (message.partition(), message.offset());
    Record { partition, offset, time, key: message.key(), value: message.payload() }
}
