//! A fence for every producer of a topic, whatever it knows of the layout: the broker takes no batch that could hold an
//! event. Consumers and the markers of transactions aren't concerned.

use std::time::Duration;

use anyhow::{Context, anyhow};
use like_events::topic::{FENCE_BYTES, MAX_MESSAGE_BYTES};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Sets the topic's `max.message.bytes`. rdkafka lacks the incremental call, so the topic's other settings are sent too.
pub async fn raise(client: &ClientConfig, topic: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = client.create().context("Kafka client")?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let which = ResourceSpecifier::Topic(topic);
    let described = admin.describe_configs([&which], &options).await?.into_iter().next();
    let described = described.context("Kafka described nothing")?.map_err(|code| anyhow!("{code}"))?;
    let own = described.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
    let own = own.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)));
    let fence = FENCE_BYTES.to_string();
    let settings = own.filter(|(name, _)| *name != MAX_MESSAGE_BYTES).chain([(MAX_MESSAGE_BYTES, fence.as_str())]);
    let config = settings.fold(AlterConfig::new(which), |config, (name, value)| config.set(name, value));
    let altered = admin.alter_configs([&config], &options).await?.into_iter().next();
    altered.context("Kafka altered nothing")?.map_err(|(_, code)| anyhow!("{code}"))?;
    Ok(())
}
