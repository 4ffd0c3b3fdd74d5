//! Records as an experiment writes and reads them, and the batches that the service's own
//! transaction takes.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use like_aggregator::apply::transaction::Store;
use like_aggregator::fold::{Batch, Dedup, Record};
use like_common::database::{DatabaseUrl, SCHEMA};
use like_testkit::TestDatabase;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::events::Event;

/// Limit for what takes a moment.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// `DEDUP=history` with the default window.
pub const HISTORY: Dedup = Dedup::History(Duration::from_hours(48));

/// A record, written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// To write: None lets the partitioner choose. Read: always Some.
    pub partition: Option<i32>,
    /// Where it was read.
    pub offset: i64,
    /// The broker's timestamp, milliseconds since 1970.
    pub time: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

impl Entry {
    /// A record to write.
    pub fn new(key: Option<&str>, value: impl Into<Vec<u8>>) -> Self {
        let key = key.map(|key| key.as_bytes().to_vec());
        Self { partition: None, offset: -1, time: -1, key, value: value.into() }
    }
}

impl From<&Event> for Entry {
    /// The record of an event, with the product as its key.
    fn from(event: &Event) -> Self {
        let (key, value) = event.record();
        Self::new(Some(&key), value)
    }
}

/// A client's settings for the test broker, and these.
pub fn client(settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", like_testkit::kafka()).set("allow.auto.create.topics", "false");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config
}

/// Writes the records in their order and waits until the broker has acknowledged them.
pub fn publish(topic: &str, settings: &[(&str, &str)], records: impl IntoIterator<Item = Entry>) -> anyhow::Result<()> {
    let common = [("partitioner", "murmur2_random"), ("linger.ms", "5")];
    let producer: ThreadedProducer<DefaultProducerContext> = client(&[&common, settings].concat()).create()?;
    for record in records {
        send(&producer, topic, &record)?;
    }
    producer.flush(4 * PATIENCE).context("publishing")
}

/// Passes one record to the producer; waits while its queue is full.
pub fn send<C>(producer: &ThreadedProducer<C>, topic: &str, record: &Entry) -> anyhow::Result<()>
where
    C: ProducerContext<DeliveryOpaque = ()> + 'static,
{
    let start = Instant::now();
    loop {
        let mut new = BaseRecord::<[u8], [u8]>::to(topic).payload(&record.value);
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

/// A consumer that reads these partitions from `offset` to their ends without a rebalance. Offsets
/// are stored for a commit, not committed.
pub fn reader(
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    group: &str,
    reset: &str,
    offset: Offset,
) -> anyhow::Result<BaseConsumer> {
    let settings = [
        ("group.id", group),
        ("auto.offset.reset", reset),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("fetch.queue.backoff.ms", "5"),
    ];
    let consumer: BaseConsumer = client(&settings).create()?;
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, partition, offset)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// The next record; None at the end of a partition.
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

/// Reads until each of the partitions has reported its end.
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

/// Everything in a topic.
pub fn read_all(topic: &str, partitions: i32) -> anyhow::Result<Vec<Entry>> {
    read_to_end(&reader(topic, 0..partitions, &group(), "error", Offset::Beginning)?, partitions)
}

/// A new consumer group.
pub fn group() -> String {
    format!("group-{}", Uuid::now_v7())
}

/// The records of a topic with one partition, in batches of at most `size`.
pub fn batches(records: &[Entry], size: usize) -> anyhow::Result<Vec<Batch>> {
    let mut next = 0;
    let mut batches = Vec::new();
    for part in records.chunks(size) {
        let (mut batch, stored) = (Batch::default(), next);
        for record in part {
            ensure!(record.partition == Some(0) && record.offset == next, "not a log of one partition: {record:?}");
            let Entry { offset, time, key, value, .. } = record;
            let (key, value) = (key.as_deref(), Some(value.as_slice()));
            batch.push(&Record { partition: 0, offset: *offset, time: *time, key, value }, stored);
            next = offset + 1;
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// The service's own transaction, for this topic and database.
pub async fn store(topic: &str, database: &TestDatabase, dedup: Dedup) -> anyhow::Result<Store> {
    let url = DatabaseUrl::from_str(&database.url).map_err(|error| anyhow!(error))?;
    // As `setup --change-dedup` does.
    let mode = if matches!(dedup, Dedup::Batch) { "batch" } else { "history" };
    sqlx::query("UPDATE fold SET dedup = $1").bind(mode).execute(&database.pool).await?;
    Ok(Store::new(&url, SCHEMA, topic, dedup))
}

/// A database with tables of an experiment's own, where a service has its own.
pub async fn naive_database(tables: &'static str) -> anyhow::Result<TestDatabase> {
    let database = TestDatabase::create_empty().await;
    sqlx::raw_sql("CREATE SCHEMA likes").execute(&database.pool).await?;
    sqlx::raw_sql(tables).execute(&database.pool).await?;
    Ok(database)
}

/// A connection for another runtime than that of the database's pool.
pub async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let url = DatabaseUrl::from_str(url).map_err(|error| anyhow!(error))?;
    Ok(PgConnection::connect_with(&url.connect_options(SCHEMA, "loadtest")).await?)
}

/// Applies the batches one after the other; returns the number of dropped duplicates.
pub async fn apply(store: &mut Store, batches: &[Batch]) -> anyhow::Result<u64> {
    let mut duplicates = 0;
    for batch in batches {
        duplicates += store.apply(batch).await?.duplicates;
    }
    Ok(duplicates)
}
