//! The start and end offsets of each partition's log, and single records near them, read from the broker.

use std::collections::{BTreeMap, HashMap};

use rdkafka::{ClientConfig, Message};

use super::log_reader::LogReader;
use crate::fold::Millis;

pub use super::log_reader::LogEnds;

pub async fn of(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<LogEnds> {
    LogReader::run(client, topic, move |log| log.ends(partitions)).await
}

/// Returns whether another producer's transaction is open on a partition: its records are in the log, and it isn't known
/// yet whether consumers will ever read them.
pub async fn transaction_open(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<bool> {
    let mut all = client.clone();
    all.set("isolation.level", "read_uncommitted");
    // In this order, so that records written in between aren't taken for an open transaction.
    let written = of(&all, topic, partitions).await?;
    let stable = of(client, topic, partitions).await?;
    Ok(written.iter().zip(stable).any(|((_, written), (_, stable))| stable < *written))
}

/// Returns, per partition, the offset after the last record before the given end that a consumer can read. The end may be
/// larger: the marker of another producer's transaction takes an offset and is no record, so no fold ever reaches it.
pub async fn after_last_records(client: &ClientConfig, topic: &str, ends: LogEnds) -> anyhow::Result<Vec<i64>> {
    let after_last = move |log: &LogReader| {
        let mut after: Vec<i64> = ends.iter().map(|(start, _)| *start).collect();
        let mut open: Vec<(i32, (i64, i64))> = (0..).zip(ends.iter().copied()).collect();
        // Reads the last few offsets, and more of them as long as they hold no record.
        let mut tail = 10;
        loop {
            open.retain(|&(partition, (start, end))| after[partition as usize] == start && start < end);
            if open.is_empty() {
                return Ok(after);
            }
            let from: Vec<_> = open.iter().map(|&(p, (start, end))| (p, start.max(end - tail))).collect();
            log.read(&from, |record| {
                let (partition, next) = (record.partition() as usize, record.offset() + 1);
                let end = ends[partition].1;
                after[partition] = next.min(end);
                next >= end
            })?;
            open.retain(|(_, (start, end))| end - tail > *start);
            tail *= 10;
        }
    };
    LogReader::run(client, topic, after_last).await
}

/// Returns, per partition with a record at or after its offset in `from`, that record's offset and the log's end.
pub async fn first_records(
    client: &ClientConfig,
    topic: &str,
    from: &[i64],
) -> anyhow::Result<BTreeMap<i32, (i64, i64)>> {
    let from = from.to_vec();
    let first = move |log: &LogReader| {
        let ends = log.ends(from.len() as i32)?;
        let open = (0..).zip(ends.iter().zip(from)).filter(|(_, ((_, end), from))| end > from);
        // If retention removed records, the first remaining one will do.
        let open: Vec<_> = open.map(|(partition, ((start, _), from))| (partition, from.max(*start))).collect();
        let mut found = BTreeMap::new();
        log.read(&open, |record| {
            let partition = record.partition();
            found.insert(partition, (record.offset(), ends[partition as usize].1));
            true
        })?;
        Ok(found)
    };
    LogReader::run(client, topic, first).await
}

/// Returns, per partition, the offset and timestamp of the first record at or after the given offset. Leaves out
/// partitions that can't be read in time.
pub async fn records_at(
    client: &ClientConfig,
    topic: &str,
    offsets: Vec<(i32, i64)>,
) -> anyhow::Result<HashMap<i32, (i64, Millis)>> {
    let records = move |log: &LogReader| {
        let mut found = HashMap::new();
        let read = log.read(&offsets, |record| {
            let time = record.timestamp().to_millis().unwrap_or(-1);
            found.insert(record.partition(), (record.offset(), time));
            true
        });
        if let Err(error) = read {
            tracing::debug!("{error:#}");
        }
        Ok(found)
    };
    LogReader::run(client, topic, records).await
}
