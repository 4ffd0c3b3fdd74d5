//! Finds the first record of a topic at or past given offsets, by reading the log. Its end offsets
//! don't tell: the markers of transactions take offsets and are no records. Used to close a topic,
//! where all records must be folded, and to report records past the end of a closed one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use like_common::layout::Layout;
use like_common::topic_check;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Serialize;

use crate::topic::log_ends;

const POLL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(10);

/// Records of one partition past the recorded end of its closed topic; they are never folded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PastEnd {
    pub topic: String,
    pub partition: i32,
    /// The recorded end.
    pub end_offset: i64,
    /// The offset of the first record past it.
    pub first_offset: i64,
    /// The log's end.
    pub log_end: i64,
}

impl PastEnd {
    /// Returns how many there are at most: some of the offsets may be markers.
    pub fn records(&self) -> i64 {
        self.log_end - self.first_offset
    }
}

/// Finds records past the recorded ends of those of `layouts` that are closed.
pub async fn find(client: &ClientConfig, layouts: &[Layout]) -> anyhow::Result<Vec<PastEnd>> {
    let mut found = Vec::new();
    for Layout { topic, end_offsets, .. } in layouts {
        let Some(ends) = end_offsets else { continue };
        // A closed topic may have been deleted since.
        if topic_check::describe(client, topic).await?.is_none() {
            continue;
        }
        for (partition, (first_offset, log_end)) in first_records(client, topic, ends).await? {
            let end_offset = ends[partition as usize];
            found.push(PastEnd { topic: topic.clone(), partition, end_offset, first_offset, log_end });
        }
    }
    Ok(found)
}

/// Returns, for each partition with a record at or past its offset in `from`, that record's offset and
/// the log's end.
pub async fn first_records(
    client: &ClientConfig,
    topic: &str,
    from: &[i64],
) -> anyhow::Result<BTreeMap<i32, (i64, i64)>> {
    let logs = log_ends::of(client, topic, from.len() as i32).await?;
    let past = (0..).zip(logs.iter().zip(from)).filter(|(_, ((_, end), from))| end > *from);
    // If retention removed records, the first remaining one will do.
    let past: BTreeMap<i32, i64> = past.map(|(p, ((start, _), from))| (p, *from.max(start))).collect();
    let firsts = if past.is_empty() {
        BTreeMap::new()
    } else {
        let (client, topic) = (client.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_first(&client, &topic, past)).await??
    };
    Ok(firsts.into_iter().map(|(p, first)| (p, (first, logs[p as usize].1))).collect())
}

/// Reads each partition from the given offset to its first record, or to its end.
fn read_first(client: &ClientConfig, topic: &str, mut open: BTreeMap<i32, i64>) -> anyhow::Result<BTreeMap<i32, i64>> {
    let mut config = client.clone();
    // Assigning needs a group's name; nothing is committed to it. Doesn't read from a follower, which
    // may not have the last records yet.
    let settings = [("group.id", "like-aggregator-look"), ("enable.partition.eof", "true"), ("client.rack", "")];
    for (name, value) in settings {
        config.set(name, value);
    }
    config.set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    let consumer: BaseConsumer = config.create().context("Kafka client")?;
    let mut list = TopicPartitionList::new();
    for (&partition, &offset) in &open {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    consumer.assign(&list).context("assigning")?;
    let (mut found, start) = (BTreeMap::new(), Instant::now());
    while !open.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(record)) if open.remove(&record.partition()).is_some() => {
                found.insert(record.partition(), record.offset());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
            Some(Ok(_)) | None => {}
        }
        if start.elapsed() > TIMEOUT {
            bail!("{topic} could not be read in time: partitions {:?}", open.keys());
        }
    }
    Ok(found)
}
