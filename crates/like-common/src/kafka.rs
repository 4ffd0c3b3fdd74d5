//! Kafka client properties: the brokers, and a file with librdkafka's properties for TLS, SASL and tuning. A property that
//! the contract fixes is refused with the reason.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use like_events::topic::DEFAULT_TOPIC;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaResult;

use crate::cli::UsageError;

#[derive(Args, Debug, Clone)]
pub struct KafkaSettings {
    /// the brokers to start from, host:port[,host:port…]
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_name = "HOST:PORT,…", value_parser = NonEmptyStringValueParser::new())]
    pub kafka_bootstrap_servers: String,

    /// a properties file in librdkafka's names, for TLS, SASL and tuning
    #[arg(long, env = "KAFKA_CONFIG_FILE", value_name = "FILE")]
    pub kafka_config_file: Option<PathBuf>,

    /// the topic of the like events
    #[arg(long, visible_alias = "topic", env = "KAFKA_TOPIC", value_name = "TOPIC", default_value = DEFAULT_TOPIC, value_parser = NonEmptyStringValueParser::new())]
    pub kafka_topic: String,
}

/// Properties that the contract fixes, with librdkafka's aliases, and why.
const FIXED: [(&str, &str); 18] = [
    ("bootstrap.servers", "set KAFKA_BOOTSTRAP_SERVERS instead"),
    ("metadata.broker.list", "set KAFKA_BOOTSTRAP_SERVERS instead"),
    ("enable.idempotence", "without it a lost acknowledgement doubles an event"),
    ("acks", "a like is acknowledged only when all in-sync replicas have it"),
    ("request.required.acks", "a like is acknowledged only when all in-sync replicas have it"),
    ("partitioner", "producers in every language must send a product to the same partition"),
    ("transactional.id", "events are published one by one; a transaction would hide them until its end"),
    ("isolation.level", "a fold reads committed records only, or a replay would give other counts"),
    ("enable.auto.commit", "offsets are committed in PostgreSQL, with the counts"),
    ("auto.commit.enable", "offsets are committed in PostgreSQL, with the counts"),
    ("enable.auto.offset.store", "offsets are committed in PostgreSQL, with the counts"),
    ("auto.offset.reset", "a reset would skip or repeat events silently"),
    ("partition.assignment.strategy", "members of one group must agree on it: cooperative-sticky"),
    ("group.protocol", "members of one group must agree on it: classic"),
    ("group.id", "set KAFKA_GROUP_ID instead"),
    ("message.timeout.ms", "requests are answered within 5 s, so their events are delivered or failed by then"),
    ("delivery.timeout.ms", "requests are answered within 5 s, so their events are delivered or failed by then"),
    ("allow.auto.create.topics", "setup creates the topic; a request for it must not create one with other partitions"),
];

impl KafkaSettings {
    /// Returns the base configuration of every client. The error names the file and the property.
    pub fn client_config(&self, client_id: &str) -> Result<ClientConfig, UsageError> {
        self.properties(client_id).map_err(|error| UsageError(format!("{error:#}")))
    }

    fn properties(&self, client_id: &str) -> anyhow::Result<ClientConfig> {
        let mut config = ClientConfig::new();
        config.set("client.id", client_id);
        if let Some(path) = &self.kafka_config_file {
            let shown = path.display();
            let file = File::open(path).with_context(|| format!("KAFKA_CONFIG_FILE={shown} can't be read"))?;
            let properties = java_properties::read(file)
                .map_err(|e| anyhow!("KAFKA_CONFIG_FILE={shown} is not a properties file (key=value lines): {e}"))?;
            // Sorted, so that a file is always refused for the same reason.
            for (key, value) in properties.into_iter().collect::<BTreeMap<_, _>>() {
                if let Some((_, why)) = FIXED.iter().find(|(fixed, _)| *fixed == key) {
                    bail!("KAFKA_CONFIG_FILE={shown}: {key} can't be set: {why}");
                }
                config.set(key, value);
            }
            // Checked now: later a mistake would look like an unreachable broker. Only creating a
            // client checks properties against each other.
            config.create_native_config().map_err(|e| anyhow!("KAFKA_CONFIG_FILE={shown}: {e}"))?;
            let mut tried = config.clone();
            tried.set("log_level", "0");
            let tried: KafkaResult<BaseConsumer> = tried.create();
            tried.map_err(|e| anyhow!("KAFKA_CONFIG_FILE={shown}: {e}"))?;
        }
        config.set("bootstrap.servers", &self.kafka_bootstrap_servers);
        // On by default for producers and admin clients.
        config.set("allow.auto.create.topics", "false");
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn config(properties: &str) -> Result<ClientConfig, UsageError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(properties.as_bytes()).unwrap();
        let settings = KafkaSettings {
            kafka_bootstrap_servers: "localhost:1".to_owned(),
            kafka_config_file: Some(file.path().to_owned()),
            kafka_topic: DEFAULT_TOPIC.to_owned(),
        };
        settings.client_config("test")
    }

    #[test]
    fn fixed_property_is_refused_with_the_reason() {
        for (key, why) in FIXED {
            let error = config(&format!("{key}=x\n")).unwrap_err().to_string();
            assert!(error.ends_with(&format!("{key} can't be set: {why}")), "{error}");
        }
    }

    #[test]
    fn conflicting_properties_are_named() {
        let error = config("max.poll.interval.ms=10000\n").unwrap_err().to_string();
        assert!(error.contains("max.poll.interval.ms") && error.contains("session.timeout.ms"), "{error}");
        let both = config("max.poll.interval.ms=10000\nsession.timeout.ms=6000\n").unwrap();
        assert_eq!(both.get("session.timeout.ms"), Some("6000"));
    }
}
