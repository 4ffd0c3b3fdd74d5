//! Publishes from a command, by an idempotent producer that waits for all replicas, and counts what the log has. A
//! command succeeds only when the log has everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use like_events::topic::{MAX_BATCH_BYTES, PARTITIONER};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use crate::topic::open_topic::OpenTopic;

/// How long the broker may take to accept an event, unless a command sets another time: long enough for its restart.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The most events that wait for their acknowledgement, which bounds the memory.
const QUEUE: &str = "20000";

/// Publishes to the open topic. It blocks, so use it outside async tasks.
pub struct Publisher {
    producer: ThreadedProducer<Reports>,
    topic: String,
    timeout: Duration,
    sent: u64,
}

/// The delivery reports so far.
#[derive(Debug, Default, Clone)]
pub struct Settled {
    /// Events that the log has.
    pub acknowledged: u64,
    /// Per partition, the offset after the last of them.
    pub ends: BTreeMap<i32, i64>,
    /// The first error of a delivery.
    failed: Option<String>,
}

#[derive(Default)]
struct Reports(Mutex<Settled>);

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Settled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut settled = self.lock();
        match result {
            Ok(message) => {
                settled.acknowledged += 1;
                let end = settled.ends.entry(message.partition()).or_default();
                *end = message.offset().saturating_add(1).max(*end);
            }
            Err((error, _)) => drop(settled.failed.get_or_insert_with(|| error.to_string())),
        }
    }
}

impl Publisher {
    /// Connects in the background. The broker has `timeout` to accept each event.
    pub fn new(topic: &OpenTopic, timeout: Duration) -> anyhow::Result<Self> {
        let mut config = topic.client.clone();
        if config.get("compression.type").is_none() && config.get("compression.codec").is_none() {
            config.set("compression.type", "lz4");
        }
        config
            .set("batch.size", MAX_BATCH_BYTES.to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", PARTITIONER)
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", QUEUE);
        let producer = config.create_with_context(Reports::default()).context("Kafka producer")?;
        Ok(Self { producer, topic: topic.layout.topic.clone(), timeout, sent: 0 })
    }

    /// Queues a record; waits while the queue is full.
    pub fn publish(&mut self, key: &str, value: &[u8]) -> anyhow::Result<()> {
        let mut record = BaseRecord::to(&self.topic).key(key).payload(value);
        while let Err((error, again)) = self.producer.send(record) {
            if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                return Err(error).context(self.so_far());
            }
            self.check()?;
            record = again;
            std::thread::sleep(Duration::from_millis(5));
        }
        self.sent += 1;
        Ok(())
    }

    pub fn acknowledged(&self) -> u64 {
        self.producer.context().lock().acknowledged
    }

    /// Waits for all delivery reports; an error unless the log has all events.
    pub fn finish(&self) -> anyhow::Result<Settled> {
        // Its error is only about the time; every event has a report by then.
        let _ = self.producer.flush(self.timeout + Duration::from_secs(5));
        self.check()?;
        let settled = self.producer.context().lock().clone();
        if settled.acknowledged < self.sent {
            bail!("{}: no answer about the rest", self.so_far());
        }
        Ok(settled)
    }

    fn check(&self) -> anyhow::Result<()> {
        let failed = self.producer.context().lock().failed.clone();
        failed.map_or(Ok(()), |failed| bail!("{}: {failed}", self.so_far()))
    }

    fn so_far(&self) -> String {
        format!("{} of {} published events are known to be in the log", self.acknowledged(), self.sent)
    }
}
