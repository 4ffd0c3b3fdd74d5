//! The topic of commands that write to it or change offsets: it has a layout, is open, and agrees with its layout.

use anyhow::{Context, bail};
use like_common::kafka::KafkaSettings;
use like_common::layout::{self, Layout};
use like_common::topic_check::{self, LiveTopic};
use rdkafka::ClientConfig;
use sqlx::PgConnection;
use tracing::warn;

pub struct OpenTopic {
    pub client: ClientConfig,
    pub layout: Layout,
    pub live: LiveTopic,
}

impl OpenTopic {
    /// Finds the topic and compares it with its layout; `command` names this client to the broker.
    pub async fn find(kafka: &KafkaSettings, connection: &mut PgConnection, command: &str) -> anyhow::Result<Self> {
        let topic = kafka.kafka_topic.as_str();
        let client = kafka.client_config(&format!("like-aggregator-{command}"))?;
        let layouts = layout::read_all(connection).await.context("topic_layout (made by `like-aggregator setup`)")?;
        let layout = layouts.iter().find(|layout| layout.topic == topic).cloned();
        let layout =
            layout.with_context(|| format!("topic_layout has no {topic}: `like-aggregator setup` has to be run"))?;
        // Events of the earlier topic, even if written later, would be folded before events written to this one now.
        let open_before = layouts.iter().find(|l| l.sequence < layout.sequence && l.end_offsets.is_none());
        if let Some(before) = open_before {
            bail!("topic {topic} comes after {}, which has to be closed first (`topics close`)", before.topic);
        }
        if layout.end_offsets.is_some() {
            bail!("topic {topic} is closed: set KAFKA_TOPIC to the open one");
        }
        let live = topic_check::describe(&client, topic).await.context("Kafka")?;
        let findings = topic_check::compare(live.as_ref(), topic, layout.partitions);
        findings.warnings.iter().for_each(|warning| warn!("{warning}"));
        if let Some(fatal) = findings.fatal {
            bail!(fatal);
        }
        let live = live.context("the topic was compared")?;
        Ok(Self { client, layout, live })
    }
}
