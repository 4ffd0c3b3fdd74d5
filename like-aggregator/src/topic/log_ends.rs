//! The start and end offsets of each partition's log, and the record at an offset, read from the
//! broker.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::fold::Millis;

/// The start and end offset of each partition.
pub type LogEnds = Vec<(i64, i64)>;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the start and end offset of each partition.
pub async fn of(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<LogEnds> {
    let (client, topic) = (client.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().context("Kafka client")?;
        (0..partitions)
            .map(|partition| {
                let ends = consumer.fetch_watermarks(&topic, partition, TIMEOUT);
                ends.with_context(|| format!("asking for the log's ends of partition {partition}"))
            })
            .collect()
    });
    asked.await?
}

/// Returns whether another producer's transaction is open on a partition: its records are in the log,
/// and it isn't known yet whether consumers will ever read them.
pub async fn transaction_open(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<bool> {
    let mut all = client.clone();
    all.set("isolation.level", "read_uncommitted");
    // In this order, so that records written in between aren't taken for an open transaction.
    let written = of(&all, topic, partitions).await?;
    let stable = of(client, topic, partitions).await?;
    Ok(written.iter().zip(stable).any(|((_, written), (_, stable))| stable < *written))
}

/// Returns, per partition, the offset after the last record that a consumer can read. The log's end
/// may lie after it: the marker of another producer's transaction takes an offset and is no record,
/// so no fold ever reaches it.
pub async fn behind_last_records(client: &ClientConfig, topic: &str, ends: LogEnds) -> anyhow::Result<Vec<i64>> {
    let (mut client, topic) = (client.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        // It joins no group and commits nothing, but librdkafka requires the name.
        client.set("group.id", "like-aggregator-log-end").set("enable.auto.commit", "false");
        client.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
        let consumer: BaseConsumer = client.create().context("Kafka client")?;
        let read = |(partition, (start, end)): (i32, (i64, i64))| {
            behind_last_record(&consumer, &topic, partition, start, end)
                .with_context(|| format!("looking for the last record of partition {partition}"))
        };
        (0..).zip(ends).map(read).collect()
    });
    asked.await?
}

/// Reads the last few offsets, and more of them as long as they hold no record.
fn behind_last_record(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    start: i64,
    end: i64,
) -> anyhow::Result<i64> {
    if start == end {
        return Ok(start);
    }
    let mut tail = 10;
    loop {
        let from = (end - tail).max(start);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from))?;
        consumer.assign(&list)?;
        let mut behind = None;
        loop {
            match consumer.poll(TIMEOUT) {
                Some(Ok(record)) => behind = Some(record.offset() + 1),
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(error.into()),
                None => bail!("no answer within {TIMEOUT:?}"),
            }
            // Newer records don't matter.
            if behind.is_some_and(|behind| behind >= end) {
                break;
            }
        }
        match behind {
            Some(behind) => return Ok(behind.min(end)),
            None if from == start => return Ok(start),
            None => tail *= 10,
        }
    }
}

/// Returns, per partition, the offset and timestamp of the first record at or after the given offset.
/// Leaves out partitions where none comes in time.
pub async fn records_at(
    client: &ClientConfig,
    topic: &str,
    offsets: Vec<(i32, i64)>,
) -> anyhow::Result<HashMap<i32, (i64, Millis)>> {
    let (mut client, topic) = (client.clone(), topic.to_owned());
    // Assigning needs a group's name and never uses it.
    client.set("group.id", "like-aggregator-look").set("enable.auto.commit", "false");
    client.set("isolation.level", "read_committed").set("auto.offset.reset", "error");
    client.set("fetch.message.max.bytes", "65536");
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().context("Kafka client")?;
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in &offsets {
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
        }
        consumer.assign(&list).context("reading the log")?;
        let (mut found, deadline) = (HashMap::new(), Instant::now() + TIMEOUT);
        while found.len() < offsets.len() && Instant::now() < deadline {
            if let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) {
                let place = (record.offset(), record.timestamp().to_millis().unwrap_or(-1));
                found.entry(record.partition()).or_insert(place);
            }
        }
        Ok(found)
    });
    asked.await?
}
