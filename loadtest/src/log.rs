//! A topic of one's own: filled as fast as the broker takes it, and deleted.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use like_events::topic::{PARTITIONER, TOPIC_SETTINGS};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::generate::Event;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Makes a topic as `like-aggregator setup` makes it.
pub async fn create(brokers: &str, topic: &str, partitions: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in TOPIC_SETTINGS {
        new = new.set(name, value);
    }
    let made = admin.create_topics([&new], &AdminOptions::new().operation_timeout(Some(TIMEOUT))).await?;
    for result in made {
        result.map_err(|(topic, code)| anyhow::anyhow!("topic {topic} can't be made: {code}"))?;
    }
    Ok(())
}

/// Writes all events, in their order, and answers where each partition ends. Idempotent: with
/// several requests in flight, a lost one would otherwise change the order when it is repeated.
pub fn fill(brokers: &str, topic: &str, events: impl Iterator<Item = Event>) -> anyhow::Result<Vec<i64>> {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("partitioner", PARTITIONER)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .create()
        .context("producer")?;
    let mut written = 0;
    for event in events {
        let (key, value) = event.record();
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((error, again)) = producer.send(record) {
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                    std::thread::sleep(Duration::from_millis(1));
                    record = again;
                }
                error => bail!("publishing: {error}"),
            }
        }
        written += 1;
    }
    producer.flush(TIMEOUT).context("the broker didn't take all events in time")?;

    let client = producer.client();
    let metadata = client.fetch_metadata(Some(topic), TIMEOUT).context("metadata")?;
    let partitions = metadata.topics().first().context("the topic is gone")?.partitions().len() as i32;
    let end = |partition| client.fetch_watermarks(topic, partition, TIMEOUT).map(|(_, end)| end);
    let ends = (0..partitions).map(end).collect::<Result<Vec<_>, _>>().context("log ends")?;
    // A delivery that failed is reported to nobody here; it shows in what is missing.
    ensure!(ends.iter().sum::<i64>() == written, "the log doesn't hold the {written} events: {ends:?}");
    Ok(ends)
}

/// Deletes the topic.
pub async fn delete(brokers: &str, topic: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let deleted = admin.delete_topics(&[topic], &AdminOptions::new().operation_timeout(Some(TIMEOUT))).await?;
    for result in deleted {
        result.map_err(|(topic, code)| anyhow::anyhow!("topic {topic} can't be deleted: {code}"))?;
    }
    Ok(())
}
