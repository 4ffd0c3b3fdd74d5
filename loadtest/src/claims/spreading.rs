//! What librdkafka's sticky partitioner is for: records without a key, sent at a steady rate, arrive in
//! fewer and fuller batches when they stay on one partition for a moment than when each chooses its
//! own partition.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use like_testkit::TestTopic;
use rdkafka::ClientContext;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;

use super::Finding;
use crate::records::{Entry, PATIENCE, client, send};

const PARTITIONS: i32 = 32;
const RECORDS: i64 = 15_000;
/// Every millisecond.
const BURST: i64 = 10;
const LEAST_GAIN: f64 = 3.0;

/// The producer's statistics so far.
#[derive(Default)]
struct Sent(Mutex<Figures>);

#[derive(Default, Clone, Copy)]
struct Figures {
    /// Of one partition's batch each.
    requests: i64,
    records: u64,
    /// How many statistics there were.
    reports: u64,
}

impl Sent {
    fn figures(&self) -> Figures {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Sent {
    fn stats(&self, statistics: Statistics) {
        let requests = statistics.brokers.values().filter_map(|broker| broker.req.get("Produce")).sum();
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        let records = partitions.map(|partition| partition.txmsgs).sum();
        let mut figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *figures = Figures { requests, records, reports: figures.reports + 1 };
    }
}

impl ProducerContext for Sent {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

pub async fn sticky_fills_batches() -> anyhow::Result<Finding> {
    let (spread, sticky) = (records_per_batch("0").await?, records_per_batch("10").await?);
    let measured = format!(
        "records per batch at {} a second on {PARTITIONS} partitions, linger 5 ms: sticky {sticky:.1}, one by one {spread:.1}",
        BURST * 1000
    );
    Ok(Finding { measured, holds: sticky >= LEAST_GAIN * spread })
}

async fn records_per_batch(sticky_ms: &str) -> anyhow::Result<f64> {
    let topic = TestTopic::create(PARTITIONS).await;
    let settings = [
        ("partitioner", "murmur2_random"),
        ("sticky.partitioning.linger.ms", sticky_ms),
        ("linger.ms", "5"),
        ("statistics.interval.ms", "100"),
    ];
    let producer: ThreadedProducer<Sent> = client(&settings).create_with_context(Sent::default())?;
    // A new partition may refuse its first batch, which is then sent again: not counted.
    for partition in 0..PARTITIONS {
        send(&producer, &topic.name, &Entry { partition: Some(partition), ..Entry::new(None, *b"first") })?;
    }
    let before = settled(&producer)?;
    let (record, start) = (Entry::new(None, [b'x'; 200]), Instant::now());
    for sent in 0..RECORDS {
        if sent % BURST == 0 {
            let due = Duration::from_millis((sent / BURST) as u64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
        send(&producer, &topic.name, &record)?;
    }
    let after = settled(&producer)?;
    let (requests, records) = (after.requests - before.requests, after.records - before.records);
    ensure!(records >= RECORDS as u64, "{RECORDS} records were sent, {records} by the statistics");
    Ok(records as f64 / requests as f64)
}

/// The figures once everything sent is acknowledged.
fn settled(producer: &ThreadedProducer<Sent>) -> anyhow::Result<Figures> {
    producer.flush(PATIENCE).context("publishing")?;
    let (sent, start) = (producer.context(), Instant::now());
    // The next report may have begun earlier.
    let last = sent.figures().reports + 2;
    while sent.figures().reports < last {
        ensure!(start.elapsed() < PATIENCE, "no statistics");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(sent.figures())
}
