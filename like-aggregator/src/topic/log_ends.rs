//! The start and end offsets of each partition's log, and single records near them, read from the broker.
//!
//! A log has three ends. Each caller says which one it needs:
//! - the *written* end, Kafka's high watermark: what producers have got acknowledged;
//! - the *stable* end, Kafka's last stable offset: up to where a consumer reads. An open transaction holds back everything
//!   from its first record on, records of other producers included;
//! - the *last record*: the markers of transactions take offsets and are no records, so no fold ever reaches an end that
//!   lies after one.

use std::collections::{BTreeMap, HashMap};

use rdkafka::{ClientConfig, Message};

use super::log_reader::LogReader;
use crate::fold::Millis;

pub use super::log_reader::LogEnds;

/// Returns the start and the stable end of each partition.
pub async fn of(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<LogEnds> {
    LogReader::run(client, topic, move |log| log.ends(partitions)).await
}

/// Returns the start and the written end of each partition.
pub async fn written(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<LogEnds> {
    let mut all = client.clone();
    all.set("isolation.level", "read_uncommitted");
    of(&all, topic, partitions).await
}

/// Asks for them in this order, so that records written in between aren't taken for held back.
async fn written_and_stable(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<(LogEnds, LogEnds)> {
    let written = written(client, topic, partitions).await?;
    Ok((written, of(client, topic, partitions).await?))
}

/// The ends of a partition that is folded up to some offset.
#[derive(Debug, Clone, Copy)]
pub struct Unfolded {
    pub start: i64,
    pub written: i64,
    /// The offset after the last record that can be folded; the offset up to which it is folded if there is none.
    pub after_last: i64,
    /// Offsets that an open transaction holds back: it isn't known yet whether consumers will ever read them.
    pub held_back: i64,
}

impl Unfolded {
    /// Returns the offset below which records may come that aren't folded.
    pub fn end(&self) -> i64 {
        if self.held_back > 0 { self.written } else { self.after_last }
    }
}

/// Returns the ends of all partitions; `next` has the offset up to which each is folded.
pub async fn unfolded(client: &ClientConfig, topic: &str, next: &[i64]) -> anyhow::Result<Vec<Unfolded>> {
    let (written, stable) = written_and_stable(client, topic, next.len() as i32).await?;
    let unread = stable.iter().zip(next).map(|((start, end), next)| (*start.max(next), *end)).collect();
    let after_last = after_last_records(client, topic, unread).await?;
    let ends = written.into_iter().zip(stable).zip(after_last);
    let unfolded = ends.map(|(((_, written), (start, stable)), after_last)| Unfolded {
        start,
        written,
        after_last,
        held_back: (written - stable).max(0),
    });
    Ok(unfolded.collect())
}

/// Returns whether another producer's transaction is open on a partition: its records are in the log, and it isn't known
/// yet whether consumers will ever read them.
pub async fn transaction_open(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<bool> {
    let (written, stable) = written_and_stable(client, topic, partitions).await?;
    Ok(written.iter().zip(stable).any(|((_, written), (_, stable))| stable < *written))
}

/// Returns, per partition, the offset after the last record between the given start and end that a consumer can read; the
/// start if there is none.
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

/// Returns, per partition with a record at or after its offset in `from` that a consumer can read, that record's offset and
/// the stable end.
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
