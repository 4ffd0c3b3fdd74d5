//! The topic of `setup`: created where it is missing, compared with its layout where it exists.

use std::time::Duration;

use anyhow::{Context, bail};
use like_common::topic_check::{self, LiveTopic};
use like_events::topic::{DEFAULT_PARTITIONS, TOPIC_SETTINGS, min_insync_replicas};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use tracing::{info, warn};

use crate::cli::SetupSettings;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn create(settings: &SetupSettings, client: &ClientConfig) -> anyhow::Result<()> {
    let topic = settings.servers.kafka.kafka_topic.as_str();
    let admin: AdminClient<DefaultClientContext> = client.create().context("Kafka client")?;
    let replicas = match settings.replication_factor {
        Some(replicas) => replicas,
        None => brokers(client).await?.clamp(1, 3),
    };
    let min_insync = min_insync_replicas(replicas).to_string();
    let retention = settings.retention.map_or_else(|| "-1".to_owned(), |time| time.as_millis().to_string());
    let mut new = NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(replicas));
    for (name, value) in TOPIC_SETTINGS {
        new = new.set(name, if name == "retention.ms" { &retention } else { value });
    }
    new = new.set("min.insync.replicas", &min_insync);
    let options = AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT));
    let created = admin.create_topics([&new], &options).await.context("creating the topic")?;
    match created.into_iter().next() {
        Some(Ok(_)) => info!(topic, partitions = settings.partitions, replicas, "topic created"),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
        Some(Err((_, code))) => bail!("creating topic {topic}: {code}"),
        None => bail!("creating topic {topic}: the broker returned no result"),
    }
    Ok(())
}

async fn brokers(client: &ClientConfig) -> anyhow::Result<i32> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let metadata = tokio::task::spawn_blocking(move || {
        admin.inner().fetch_metadata(None, KAFKA_TIMEOUT).map(|metadata| metadata.brokers().len() as i32)
    });
    metadata.await?.context("listing the brokers")
}

/// Compares the topic with its layout; an error if the services would refuse it.
pub(super) fn check(live: &LiveTopic, partitions: i32, settings: &SetupSettings) -> anyhow::Result<()> {
    let findings = topic_check::compare(Some(live), &live.name, partitions);
    findings.warnings.iter().for_each(|warning| warn!("{warning}"));
    if let Some(fatal) = findings.fatal {
        bail!(fatal);
    }
    if live.replicas < 3 {
        warn!(
            topic = live.name,
            replicas = live.replicas,
            "fewer than three replicas: the loss of one disk can lose likes"
        );
    }
    // The default asks for nothing.
    if live.partitions != settings.partitions && settings.partitions != DEFAULT_PARTITIONS {
        warn!("topic {} has {} partitions and keeps them; --partitions is for a new topic", live.name, live.partitions);
    }
    // Neither is changed here: the client library can set one setting only by replacing all others, and replicas are moved
    // by Kafka's own tool.
    if let Some(wanted) = settings.replication_factor.filter(|wanted| *wanted != live.replicas) {
        warn!(
            "topic {} has {} replicas and keeps them; --replication-factor {wanted} is for a new topic: \
             kafka-reassign-partitions.sh changes this one",
            live.name, live.replicas
        );
    }
    if let Some(wanted) = settings.retention.map(|time| time.as_millis().to_string())
        && live.setting("retention.ms") != wanted
    {
        warn!(
            "topic {} has retention.ms={} and keeps it; --retention is for a new topic: kafka-configs.sh --alter \
             --entity-type topics --entity-name {} --add-config retention.ms={wanted} changes this one",
            live.name,
            live.setting("retention.ms"),
            live.name
        );
    }
    Ok(())
}
