//! Records of the experiments: made by a seed, written, read, and cut into batches for the store.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use like_aggregator::apply::transaction::Store;
use like_aggregator::fold::{Batch, Record};
use rand::RngExt;
use rand::rngs::StdRng;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::lab::{Lab, PATIENCE, Topic};
use crate::generate::Event;

/// 2026-11-22T10:00:00Z: when events say that they happened.
const OCCURRED_MS: u64 = 1_795_341_600_000;

/// A record, written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// To write: None lets the partitioner choose. Read: always there.
    pub partition: Option<i32>,
    /// Where it was read.
    pub offset: i64,
    /// When the broker got it, milliseconds since 1970.
    pub time: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Vec<u8>,
}

impl Entry {
    /// To write.
    pub fn new(key: Option<&str>, value: impl Into<Vec<u8>>) -> Self {
        let key = key.map(|key| key.as_bytes().to_vec());
        Self { partition: None, offset: -1, time: -1, key, value: value.into() }
    }
}

impl Lab {
    /// Writes the records in their order, and waits until the broker has them.
    pub fn publish(&self, topic: &Topic, settings: &[(&str, &str)], records: &[Entry]) -> anyhow::Result<()> {
        let mut config = self.client(&[("partitioner", "murmur2_random"), ("linger.ms", "5")]);
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
        for record in records {
            send(&producer, topic, record)?;
        }
        producer.flush(PATIENCE).context("publishing")
    }

    /// A consumer in `group` that has all partitions from `offset` on, without a rebalance:
    /// assigned by hand, with offsets stored for a commit but not committed.
    pub fn reader(&self, topic: &Topic, group: &str, reset: &str, offset: Offset) -> anyhow::Result<BaseConsumer> {
        let settings = [
            ("group.id", group),
            ("auto.offset.reset", reset),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("fetch.queue.backoff.ms", "5"),
        ];
        let consumer: BaseConsumer = self.client(&settings).create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..topic.partitions {
            list.add_partition_offset(&topic.name, partition, offset)?;
        }
        consumer.assign(&list)?;
        Ok(consumer)
    }

    /// All that the topic holds.
    pub fn read_all(&self, topic: &Topic) -> anyhow::Result<Vec<Entry>> {
        read_to_end(&self.reader(topic, &Self::name(), "error", Offset::Beginning)?, topic.partitions)
    }
}

/// Hands one record to the producer, whose queue may be full for a moment.
pub fn send<C>(producer: &ThreadedProducer<C>, topic: &Topic, record: &Entry) -> anyhow::Result<()>
where
    C: ProducerContext<DeliveryOpaque = ()> + 'static,
{
    let start = Instant::now();
    loop {
        let mut new = BaseRecord::<[u8], [u8]>::to(&topic.name).payload(&record.value);
        new.key = record.key.as_deref();
        new.partition = record.partition;
        match producer.send(new) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => bail!("publishing: {error}"),
        }
    }
}

/// The next record; None: a partition's end was reached.
pub fn next(consumer: &BaseConsumer) -> anyhow::Result<Option<Entry>> {
    let message = match consumer.poll(PATIENCE).context("no record and no end of the log in time")? {
        Ok(message) => message,
        Err(KafkaError::PartitionEOF(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(Entry {
        partition: Some(message.partition()),
        offset: message.offset(),
        time: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
    }))
}

/// Reads until each of the partitions has said that this is its end.
pub fn read_to_end(consumer: &BaseConsumer, partitions: i32) -> anyhow::Result<Vec<Entry>> {
    let (mut records, mut ends) = (Vec::new(), 0);
    while ends < partitions {
        match next(consumer)? {
            Some(record) => records.push(record),
            None => ends += 1,
        }
    }
    Ok(records)
}

/// A new like or unlike with a seeded id.
pub fn event(rng: &mut StdRng, product: u32, user: Option<u32>, liked: bool) -> Event {
    Event { id: Uuid::new_v8(rng.random()), liked, product, user, millis: OCCURRED_MS, repeat: false }
}

/// Its record, with the product as key.
pub fn entry(event: &Event) -> Entry {
    let (key, value) = event.record();
    Entry::new(Some(&key), value)
}

/// The records of a topic of one partition, in batches of at most `size`.
pub fn batches(records: &[Entry], size: usize) -> anyhow::Result<Vec<Batch>> {
    let mut next = 0;
    let mut batches = Vec::new();
    for part in records.chunks(size) {
        let (mut batch, believed) = (Batch::default(), next);
        for record in part {
            ensure!(record.partition == Some(0) && record.offset == next, "not a log of one partition: {record:?}");
            let Entry { offset, time, key, value, .. } = record;
            let (key, value) = (key.as_deref(), Some(value.as_slice()));
            batch.push(&Record { partition: 0, offset: *offset, time: *time, key, value }, believed);
            next = offset + 1;
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// Applies them one after the other; answers how many duplicates were dropped.
pub async fn apply(store: &mut Store, batches: &[Batch]) -> anyhow::Result<u64> {
    let mut duplicates = 0;
    for batch in batches {
        duplicates += store.apply(batch).await?.duplicates;
    }
    Ok(duplicates)
}
