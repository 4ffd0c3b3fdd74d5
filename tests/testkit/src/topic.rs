//! A Kafka topic for one test, and records of any kind in it.

use std::ops::Range;
use std::time::Duration;

use like_events::topic::{PARTITIONER, TOPIC_SETTINGS};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::eventually;

/// A topic with the settings of `setup` and a unique name.
pub struct TestTopic {
    pub name: String,
    pub partitions: i32,
    producer: ThreadedProducer<DefaultProducerContext>,
}

/// Publishes to a topic in transactions. The calls block: a test needs more than one thread. The
/// broker writes a transaction's marker, one offset, some time after the commit or abort.
pub struct Transactions {
    topic: String,
    producer: ThreadedProducer<DefaultProducerContext>,
}

const TRANSACTION_LIMIT: Duration = Duration::from_secs(60);

impl TestTopic {
    /// Creates the topic.
    pub async fn create(partitions: i32) -> Self {
        let name = format!("test-{}", uuid::Uuid::now_v7());
        make(&name, partitions).await.expect("topic");
        Self { name, partitions, producer: producer() }
    }

    pub async fn delete(&self) {
        let deleted = admin().delete_topics(&[&self.name], &options()).await.expect("topic deleted");
        deleted.into_iter().for_each(|result| drop(result.expect("topic deleted")));
    }

    /// Deletes the topic and creates an empty one of the same name.
    pub async fn recreate(&mut self) {
        self.delete().await;
        // The name is free once the deletion is complete.
        eventually("the topic is re-created", async || make(&self.name, self.partitions).await.ok()).await;
        // The old producer may still have the old topic's id.
        self.producer = producer();
    }

    /// Deletes the records of a partition before this offset, as retention does.
    pub async fn cut(&self, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&self.name, partition, Offset::Offset(before)).expect("an offset");
        let cut = admin().delete_records(&offsets, &options()).await.expect("records deleted");
        cut.elements().iter().for_each(|partition| partition.error().expect("records deleted"));
    }

    /// Publishes a record; without a partition the key determines it.
    pub fn publish(&self, partition: Option<i32>, key: Option<&[u8]>, value: Option<&[u8]>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.name);
        record.key = key;
        record.payload = value;
        record.partition = partition;
        while let Err((error, again)) = self.producer.send(record) {
            assert!(error.to_string().contains("QueueFull"), "{error}");
            record = again;
            std::thread::yield_now();
        }
    }

    /// Waits until all published records are acknowledged.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("published");
    }

    /// Adds partitions.
    pub async fn grow(&self, partitions: usize) {
        let grown = admin().create_partitions([&NewPartitions::new(&self.name, partitions)], &options()).await;
        grown.expect("partitions").into_iter().for_each(|result| drop(result.expect("partitions")));
    }

    /// Replaces the topic's settings by these.
    pub async fn configure(&self, settings: &[(&str, &str)]) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(&self.name));
        let config = settings.iter().fold(config, |config, (name, value)| config.set(name, value));
        let altered = admin().alter_configs([&config], &options()).await.expect("settings");
        altered.into_iter().for_each(|result| drop(result.expect("settings")));
    }

    /// A producer of transactions.
    pub fn transactions(&self) -> Transactions {
        let mut config = config();
        config.set("transactional.id", format!("{}-{}", self.name, uuid::Uuid::now_v7())).set("linger.ms", "0");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().expect("producer");
        producer.init_transactions(TRANSACTION_LIMIT).expect("transactions");
        Transactions { topic: self.name.clone(), producer }
    }

    /// The end offset of each partition.
    pub fn end_offsets(&self) -> Vec<i64> {
        let client = self.producer.client();
        let end = |p| client.fetch_watermarks(&self.name, p, Duration::from_secs(10)).expect("watermarks").1;
        (0..self.partitions).map(end).collect()
    }
}

impl Transactions {
    /// Begins a transaction and publishes records of one key to partition 0.
    pub fn begin(&self, key: &str, values: &[Vec<u8>]) {
        self.producer.begin_transaction().expect("a transaction");
        for value in values {
            let record = BaseRecord::to(&self.topic).partition(0).key(key).payload(value);
            self.producer.send(record).unwrap_or_else(|(error, _)| panic!("{error}"));
        }
        self.producer.flush(TRANSACTION_LIMIT).expect("published");
    }

    pub fn commit(&self) {
        self.producer.commit_transaction(TRANSACTION_LIMIT).expect("a commit");
    }

    pub fn abort(&self) {
        self.producer.abort_transaction(TRANSACTION_LIMIT).expect("an abort");
    }
}

/// A consumer of these partitions without a group, from this position.
pub fn reader(kafka: &str, topic: &str, partitions: Range<i32>, from: Offset) -> BaseConsumer {
    let mut config = ClientConfig::new();
    // librdkafka requires a group id and does not use it here.
    config.set("bootstrap.servers", kafka).set("group.id", "unused").set("enable.auto.commit", "false");
    config.set("fetch.queue.backoff.ms", "5");
    let consumer: BaseConsumer = config.create().expect("consumer");
    let mut positions = TopicPartitionList::new();
    for partition in partitions {
        positions.add_partition_offset(topic, partition, from).expect("an offset");
    }
    consumer.assign(&positions).expect("assigned");
    consumer
}

async fn make(name: &str, partitions: i32) -> Result<(), RDKafkaErrorCode> {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in TOPIC_SETTINGS {
        topic = topic.set(key, value);
    }
    let made = admin().create_topics([&topic], &options()).await.expect("topic");
    made.into_iter().try_for_each(|result| result.map(drop).map_err(|(_, code)| code))
}

fn admin() -> AdminClient<DefaultClientContext> {
    config().create().expect("admin client")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))
}

fn producer() -> ThreadedProducer<DefaultProducerContext> {
    let mut config = config();
    config.set("partitioner", PARTITIONER).set("linger.ms", "5").set("message.max.bytes", "2000000");
    config.create().expect("producer")
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", crate::kafka());
    config
}
