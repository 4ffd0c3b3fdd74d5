//! Reads a topic's log for a moment and outside any consumer group: its ends, and single records.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::fold::Millis;

const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time without a record or an end.
const SILENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// The start and end offset of each partition.
pub type LogEnds = Vec<(i64, i64)>;

/// A short-lived consumer of one topic. It commits nothing.
pub struct LogReader {
    consumer: BaseConsumer,
    topic: String,
}

impl LogReader {
    /// Runs `read` on a thread that may block. Dropping a client blocks too.
    pub async fn run<T: Send + 'static>(
        client: &ClientConfig,
        topic: &str,
        read: impl FnOnce(&Self) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (mut client, topic) = (client.clone(), topic.to_owned());
        client
            // librdkafka assigns partitions only to a client with a group; it doesn't join it.
            .set("group.id", "like-aggregator-look")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            // A follower may not have the last records yet.
            .set("client.rack", "")
            // Few records are read.
            .set("fetch.message.max.bytes", "65536");
        let blocking = tokio::task::spawn_blocking(move || {
            let consumer = client.create().context("Kafka client")?;
            read(&Self { consumer, topic })
        });
        blocking.await?
    }

    /// Asks each broker once for the starts and once for the ends of all partitions that it leads.
    pub fn ends(&self, partitions: i32) -> anyhow::Result<LogEnds> {
        let [starts, ends] = [Offset::Beginning, Offset::End].map(|which| self.offsets(partitions, which));
        let both = starts?.into_iter().zip(ends?);
        both.map(|(start, end)| start.zip(end).context("the broker named no offset")).collect()
    }

    /// Returns, per partition, the offset of the first record that isn't older than `time`; None if there is none.
    pub fn since(&self, partitions: i32, time: Millis) -> anyhow::Result<Vec<Option<i64>>> {
        self.offsets(partitions, Offset::Offset(time))
    }

    /// `at` is a timestamp, of which the protocol defines two: -2 for the log's start and -1 for its end.
    fn offsets(&self, partitions: i32, at: Offset) -> anyhow::Result<Vec<Option<i64>>> {
        let mut list = TopicPartitionList::with_capacity(partitions as usize);
        for partition in 0..partitions {
            list.add_partition_offset(&self.topic, partition, at)?;
        }
        let list = self.consumer.offsets_for_times(list, TIMEOUT).context("asking for the log's offsets")?;
        let mut offsets = vec![None; partitions as usize];
        for found in list.elements() {
            let partition = found.partition();
            found.error().with_context(|| format!("asking for the log's offsets of partition {partition}"))?;
            if let Offset::Offset(offset) = found.offset() {
                offsets[partition as usize] = Some(offset);
            }
        }
        Ok(offsets)
    }

    /// Reads each partition from its offset in `from` to the first record for which `is_last` returns true, or to the
    /// log's end.
    pub fn read(
        &self,
        from: &[(i32, i64)],
        mut is_last: impl FnMut(&BorrowedMessage<'_>) -> bool,
    ) -> anyhow::Result<()> {
        let mut open: BTreeSet<i32> = from.iter().map(|(partition, _)| *partition).collect();
        self.consumer.assign(&positions(&self.topic, from.iter().copied())?).context("assigning")?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                Some(Ok(record)) if open.contains(&record.partition()) => {
                    heard = Instant::now();
                    if is_last(&record) {
                        open.remove(&record.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                // The group is never joined, so no right to it is needed.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed)) | Ok(_))
                | None => {}
                Some(Err(error)) => return Err(error).with_context(|| format!("reading {}", self.topic)),
            }
            if heard.elapsed() > SILENCE {
                bail!("{} could not be read in time: partitions {open:?}", self.topic);
            }
        }
        Ok(())
    }
}

pub fn positions(topic: &str, offsets: impl IntoIterator<Item = (i32, i64)>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}
