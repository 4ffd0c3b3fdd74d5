//! A Kafka topic per test, and records of any kind in it.

use std::time::Duration;

use like_events::topic::{PARTITIONER, TOPIC_SETTINGS};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

/// A topic with the settings that `setup` gives, under a name of its own.
pub struct TestTopic {
    /// Its name.
    pub name: String,
    /// How many partitions it was made with.
    pub partitions: i32,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl TestTopic {
    /// Makes the topic and waits until the broker has it.
    pub async fn create(partitions: i32) -> Self {
        let name = format!("test-{}", uuid::Uuid::now_v7());
        let admin: AdminClient<DefaultClientContext> = config().create().expect("admin client");
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for (key, value) in TOPIC_SETTINGS {
            topic = topic.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let made = admin.create_topics([&topic], &options).await.expect("topic");
        made.into_iter().for_each(|result| drop(result.expect("topic")));
        let producer = config()
            .set("partitioner", PARTITIONER)
            .set("linger.ms", "5")
            .set("message.max.bytes", "2000000")
            .create()
            .expect("producer");
        Self { name, partitions, producer }
    }

    /// Publishes a record as it is; the partition follows from the key unless one is given.
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

    /// Waits until the broker has all that was published.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("published");
    }

    /// Per partition, the offset that the next record will have.
    pub fn end_offsets(&self) -> Vec<i64> {
        let client = self.producer.client();
        let end = |p| client.fetch_watermarks(&self.name, p, Duration::from_secs(10)).expect("watermarks").1;
        (0..self.partitions).map(end).collect()
    }
}

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", crate::kafka());
    config
}
