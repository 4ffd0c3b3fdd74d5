//! Publishing from a command: an idempotent producer that waits for all replicas, and an account
//! of what the log has. A command ends well only when it has everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use like_events::topic::PARTITIONER;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use crate::topic::open_topic::OpenTopic;

/// How long the broker is given to take an event unless a command says otherwise: its own restart
/// is included.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Events that wait for their acknowledgement at most: this bounds the memory.
const QUEUE: &str = "20000";

/// Publishes to the open topic. Blocks: not for an async task.
pub struct Publisher {
    producer: ThreadedProducer<Reports>,
    topic: String,
    timeout: Duration,
    sent: u64,
}

/// What became of the events so far.
#[derive(Debug, Default, Clone)]
pub struct Settled {
    /// Events that the log has.
    pub acknowledged: u64,
    /// Per partition, the offset behind the last of them.
    pub ends: BTreeMap<i32, i64>,
    /// Why the first of the others may be missing from it.
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
    /// Connects in the background; the broker has `timeout` to take each event.
    pub fn new(topic: &OpenTopic, timeout: Duration) -> anyhow::Result<Self> {
        let mut config = topic.client.clone();
        if config.get("compression.type").is_none() && config.get("compression.codec").is_none() {
            config.set("compression.type", "lz4");
        }
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", PARTITIONER)
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", QUEUE);
        let producer = config.create_with_context(Reports::default()).context("Kafka producer")?;
        Ok(Self { producer, topic: topic.layout.topic.clone(), timeout, sent: 0 })
    }

    /// Hands a record over; waits while the queue is full.
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

    /// How many events the log has.
    pub fn acknowledged(&self) -> u64 {
        self.producer.context().lock().acknowledged
    }

    /// Waits until everything is settled; an error unless the log has it all.
    pub fn finish(&self) -> anyhow::Result<Settled> {
        // Its own error is about the time, and every event has an end to its own.
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
