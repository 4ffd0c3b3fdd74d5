//! Where each partition's log starts and ends, as the broker says now.

use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// Per partition: the first offset that is still there, and the one that comes next.
pub type LogEnds = Vec<(i64, i64)>;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the broker, partition by partition.
pub async fn of(client: &ClientConfig, topic: &str, partitions: i32) -> anyhow::Result<LogEnds> {
    let (client, topic) = (client.clone(), topic.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().context("Kafka client")?;
        (0..partitions)
            .map(|partition| {
                let ends = consumer.fetch_watermarks(&topic, partition, TIMEOUT);
                ends.with_context(|| format!("asking for the log's ends of partition {partition}"))
            })
            .collect()
    });
    asked.await?
}
