//! From Kafka into the batch that is being filled: which record is taken, which was there before,
//! where one may be missing.

use std::mem;
use std::time::{Duration, Instant};

use anyhow::bail;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, Timestamp};
use tracing::{debug, warn};

use super::log_changes::Stopped;
use super::position::{Position, Step};
use super::{BUSY_POLL, ConsumerThread, State};
use crate::fold::batch::Record;

/// Poll time with nothing to do; also the longest a finished batch waits for its next.
const IDLE_POLL: Duration = Duration::from_millis(50);
const SEEK_TIMEOUT: Duration = Duration::from_secs(10);

impl ConsumerThread {
    /// Takes what there is, then looks again behind the holes that were seen.
    pub(super) fn collect(&self, state: &mut State) -> anyhow::Result<()> {
        self.take_all(state)?;
        for partition in mem::take(&mut state.looking) {
            if let Some(from) = state.positions.get_mut(&partition).and_then(Position::look_again) {
                debug!(partition, from, "offsets are missing: looking again");
                let offset = Offset::Offset(from);
                if let Err(error) = self.consumer.seek(&self.topic, partition, offset, SEEK_TIMEOUT) {
                    // It isn't being fetched right now.
                    debug!(partition, %error, "seeking");
                    self.fetch(state, &[partition])?;
                }
            }
        }
        Ok(())
    }

    /// Takes what there is, up to a full batch. A record that there is no room for is dropped;
    /// its position stays, so that the next one of its partition leads back to it.
    fn take_all(&self, state: &mut State) -> anyhow::Result<()> {
        let idle = state.in_flight.is_none() && state.first_at.is_none() && state.wanted.is_empty();
        let mut timeout = if idle { IDLE_POLL } else { BUSY_POLL };
        let turn = Instant::now();
        for taken in 0u32.. {
            match self.consumer.poll(timeout) {
                None => return Ok(()),
                Some(Ok(message)) => self.take(state, &message)?,
                Some(Err(error)) => Self::failed(state, &error)?,
            }
            // Not at every record: asking for the time would be a twentieth of all this costs.
            let turn_over = taken % 64 == 0 && turn.elapsed() >= BUSY_POLL;
            if turn_over || state.collecting.is_full(self.limits.max_events) {
                return Ok(());
            }
            timeout = Duration::ZERO;
        }
        Ok(())
    }

    fn take(&self, state: &mut State, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
        let (partition, offset) = (message.partition(), message.offset());
        let Some(position) = state.positions.get_mut(&partition) else {
            return Ok(());
        };
        let behind_end = self.ends.as_ref().is_some_and(|ends| offset >= ends[partition as usize]);
        if behind_end || state.collecting.is_full(self.limits.max_events) {
            return Ok(());
        }
        let record = record(message);
        match position.judge(offset, record.time) {
            Step::Skip => {}
            Step::Look => {
                if !state.looking.contains(&partition) {
                    state.looking.push(partition);
                }
            }
            Step::Missing => self.doubt(state, partition, true)?,
            Step::Differs { folded } => {
                self.stop(state, partition, Stopped::Differs { offset, folded, found: record.time })?;
            }
            Step::Take => {
                state.collecting.push(&record, position.next);
                if self.traces.tracer().is_some() {
                    state.links.add(message);
                }
                position.taken(offset);
                state.first_at.get_or_insert_with(Instant::now);
            }
        }
        Ok(())
    }

    /// Errors of brokers and network pass; librdkafka reports them while it tries again.
    fn failed(state: &mut State, failure: &KafkaError) -> anyhow::Result<()> {
        match failure {
            KafkaError::MessageConsumptionFatal(code) => bail!("the Kafka consumer can't go on: {code}"),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => Self::out_of_range(state),
            _ => warn!(error = %failure, "Kafka"),
        }
        Ok(())
    }
}

/// A record as `batch` takes it.
pub(crate) fn record<'a>(message: &'a BorrowedMessage<'_>) -> Record<'a> {
    let time = match message.timestamp() {
        Timestamp::NotAvailable => -1,
        Timestamp::CreateTime(time) | Timestamp::LogAppendTime(time) => time,
    };
    let (partition, offset) = (message.partition(), message.offset());
    Record { partition, offset, time, key: message.key(), value: message.payload() }
}
