//! Where each partition's log starts and ends, and what stands at one place of it, as the broker
//! says now.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::fold::batch::Millis;

/// Per partition: the first offset that is still there, and the one that comes next.
pub type LogEnds = Vec<(i64, i64)>;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the broker, partition by partition.
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

/// Whether a transaction of a foreign producer is open on a partition: what it wrote stands in the
/// log, and whether it will ever be read is not known yet.
pub async fn transaction_open(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<bool> {
    let mut all = client.clone();
    all.set("isolation.level", "read_uncommitted");
    // In this order: what is written between the two questions is nobody's open transaction.
    let written = of(&all, topic, partitions).await?;
    let stable = of(client, topic, partitions).await?;
    Ok(written.iter().zip(stable).any(|((_, written), (_, stable))| stable < *written))
}

/// Per partition, the offset behind the last record that a consumer will ever be given of what is
/// in the log now. The log's own end may lie behind it: what a foreign transaction leaves at the
/// end takes an offset and is no record, so no fold ever stands there.
pub async fn behind_last_records(client: &ClientConfig, topic: &str, ends: LogEnds) -> anyhow::Result<Vec<i64>> {
    let (mut client, topic) = (client.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        // It joins no group and commits nothing; librdkafka wants the name all the same.
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

/// Reads the last few records, and ever more of them while there are none.
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
            // What came since is not asked for.
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

/// Per partition asked for, the first record at or after this offset: its own offset and timestamp.
/// A partition where none comes in time is left out.
pub async fn records_at(
    client: &ClientConfig,
    topic: &str,
    offsets: Vec<(i32, i64)>,
) -> anyhow::Result<HashMap<i32, (i64, Millis)>> {
    let (mut client, topic) = (client.clone(), topic.to_owned());
    // Assigning by hand asks for a group's name, and never uses it.
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
