//! Where each partition's log starts and ends, and what stands at one place of it, as the broker
//! says now.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::batch::Millis;

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
