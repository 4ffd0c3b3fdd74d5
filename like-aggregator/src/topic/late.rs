//! Records of a topic at or behind given offsets, as the log itself says. Its ends don't: the
//! markers of transactions take offsets and are no records. For closing a topic, where all must be
//! folded, and for what appears behind the end of a closed one, which nobody folds.

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

/// Records that nobody folds, of one partition of a closed topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Late {
    /// The closed topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The recorded end.
    pub end_offset: i64,
    /// The first record behind it.
    pub first_offset: i64,
    /// Where the log ends.
    pub log_end: i64,
}

impl Late {
    /// How many there are, at most: some of the offsets may be markers.
    pub fn records(&self) -> i64 {
        self.log_end - self.first_offset
    }
}

/// What stands behind the recorded ends of those of `layouts` that are closed.
pub async fn behind_ends(client: &ClientConfig, layouts: &[Layout]) -> anyhow::Result<Vec<Late>> {
    let mut late = Vec::new();
    for Layout { topic, end_offsets, .. } in layouts {
        let Some(ends) = end_offsets else { continue };
        // A closed topic may have been deleted since.
        if topic_check::describe(client, topic).await?.is_none() {
            continue;
        }
        for (partition, (first_offset, log_end)) in first_records(client, topic, ends).await? {
            let end_offset = ends[partition as usize];
            late.push(Late { topic: topic.clone(), partition, end_offset, first_offset, log_end });
        }
    }
    Ok(late)
}

/// Of the partitions that have a record at or behind their offset in `from`: that record's offset,
/// and the log's end.
pub async fn first_records(
    client: &ClientConfig,
    topic: &str,
    from: &[i64],
) -> anyhow::Result<BTreeMap<i32, (i64, i64)>> {
    let logs = log_ends::of(client, topic, from.len() as i32).await?;
    let behind = (0..).zip(logs.iter().zip(from)).filter(|(_, ((_, end), from))| end > *from);
    // Of what retention removed the first record that is still there will do.
    let behind: BTreeMap<i32, i64> = behind.map(|(p, ((start, _), from))| (p, *from.max(start))).collect();
    let firsts = if behind.is_empty() {
        BTreeMap::new()
    } else {
        let (client, topic) = (client.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_first(&client, &topic, behind)).await??
    };
    Ok(firsts.into_iter().map(|(p, first)| (p, (first, logs[p as usize].1))).collect())
}

/// Reads each partition from the given offset to its first record, or to its end.
fn read_first(client: &ClientConfig, topic: &str, mut open: BTreeMap<i32, i64>) -> anyhow::Result<BTreeMap<i32, i64>> {
    let mut config = client.clone();
    // A group is needed to be given partitions; nothing is committed to it. Not from a follower,
    // which may not know of the last records yet.
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
