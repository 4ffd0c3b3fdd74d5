//! Kafka client properties: the brokers, and a file with librdkafka's properties for TLS, SASL and tuning. A property that
//! the contract fixes is refused with the reason. No error shows a property's value, which may be a secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Once;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use like_events::topic::DEFAULT_TOPIC;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, KafkaResult};
use tracing::warn;

use crate::cli::UsageError;
use crate::transport::is_local;

#[derive(Args, Debug, Clone)]
pub struct KafkaSettings {
    /// the brokers to start from, host:port[,host:port…]
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_name = "HOST:PORT,…", value_parser = NonEmptyStringValueParser::new())]
    pub kafka_bootstrap_servers: String,

    /// how the brokers are reached; required unless they are on this machine
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", value_parser = PossibleValuesParser::new(PROTOCOLS), ignore_case = true)]
    pub kafka_security_protocol: Option<String>,

    /// a properties file in librdkafka's names, for TLS, SASL and tuning
    #[arg(long, env = "KAFKA_CONFIG_FILE", value_name = "FILE")]
    pub kafka_config_file: Option<PathBuf>,

    /// the topic of the like events
    #[arg(long, visible_alias = "topic", env = "KAFKA_TOPIC", value_name = "TOPIC", default_value = DEFAULT_TOPIC, value_parser = NonEmptyStringValueParser::new())]
    pub kafka_topic: String,
}

const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const PROTOCOL: &str = "security.protocol";

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
            let refused = |error| anyhow!("KAFKA_CONFIG_FILE={shown}: {}", without_values(&error, &config));
            config.create_native_config().map_err(refused)?;
            let mut tried = config.clone();
            tried.set("log_level", "0");
            let tried: KafkaResult<BaseConsumer> = tried.create();
            tried.map_err(refused)?;
        }
        if let Some(protocol) = &self.kafka_security_protocol {
            if config.get(PROTOCOL).is_some_and(|other| !other.eq_ignore_ascii_case(protocol)) {
                bail!(
                    "KAFKA_SECURITY_PROTOCOL={protocol} and KAFKA_CONFIG_FILE, whose {PROTOCOL} differs, are both set"
                );
            }
            config.set(PROTOCOL, protocol);
        }
        self.check_transport(&config)?;
        config.set("bootstrap.servers", &self.kafka_bootstrap_servers);
        // On by default for producers and admin clients.
        config.set("allow.auto.create.topics", "false");
        Ok(config)
    }

    /// Brokers that aren't on this machine need a choice. Warns once per process if TLS doesn't verify them.
    fn check_transport(&self, config: &ClientConfig) -> anyhow::Result<()> {
        static WARNED: Once = Once::new();
        let Some(host) = self.kafka_bootstrap_servers.split(',').map(host).find(|host| !is_local(host)) else {
            return Ok(());
        };
        let Some(protocol) = config.get(PROTOCOL) else {
            bail!(
                "KAFKA_BOOTSTRAP_SERVERS names {host}, which is not this machine, so KAFKA_SECURITY_PROTOCOL must be set: \
                 expected {}",
                PROTOCOLS.join(", ")
            );
        };
        let off = |key: &str, off: &str| config.get(key).is_some_and(|value| value.eq_ignore_ascii_case(off));
        let verified = protocol.to_ascii_lowercase().ends_with("ssl")
            && !off("enable.ssl.certificate.verification", "false")
            && !off("ssl.endpoint.identification.algorithm", "none");
        if !verified {
            WARNED.call_once(|| {
                warn!(
                    protocol,
                    "Kafka is not verified: its network can read or change what is sent; use ssl or sasl_ssl"
                );
            });
        }
        Ok(())
    }
}

/// The host of an entry `[PROTOCOL://]HOST[:PORT]`, whose HOST may be an IPv6 address in brackets.
fn host(entry: &str) -> &str {
    let entry = entry.trim();
    let address = entry.split_once("://").map_or(entry, |(_, address)| address);
    match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    }
}

/// The text of an error about these properties. A line that isn't a property, such as one of a private key, is not shown
/// either.
fn without_values(error: &KafkaError, config: &ClientConfig) -> String {
    let is_name = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || b"0123456789._".contains(&byte));
    let text = match error {
        KafkaError::ClientConfig(_, _, key, _) if !is_name(key) => return "a line has no property's name".to_owned(),
        // The text may name another property, of which this one is an alias.
        KafkaError::ClientConfig(_, text, key, value) if !value.is_empty() => {
            format!("{key}: {}", text.replace(value.as_str(), "…"))
        }
        error => error.to_string(),
    };
    // Shorter ones hide nothing but words of the text.
    let mut values: Vec<_> = config.config_map().into_values().filter(|value| value.len() > 8).collect();
    // A value may contain another one.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values.iter().fold(text, |text, value| text.replace(value, "…"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn config(properties: &str) -> Result<ClientConfig, UsageError> {
        config_for("localhost:1", None, properties)
    }

    fn config_for(servers: &str, protocol: Option<&str>, properties: &str) -> Result<ClientConfig, UsageError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(properties.as_bytes()).unwrap();
        let settings = KafkaSettings {
            kafka_bootstrap_servers: servers.to_owned(),
            kafka_security_protocol: protocol.map(str::to_owned),
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

    #[test]
    fn value_of_a_property_is_never_shown() {
        let jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required password=\"canary-8d1f\";";
        for (properties, said) in [
            ("sasl.pasword=canary-8d1f", "\"sasl.pasword\""),
            (&format!("sasl.jaas.config={jaas}"), "Java JAAS"),
            ("security.protocol=canary-8d1f", "\"security.protocol\""),
            ("linger.ms=canary-8d1f", "linger.ms"),
            ("security.protocol=ssl\nssl.key.password=canary-8d1f\nssl.key.pem=canary-8d1f", "ssl.key"),
            ("ssl.key.pem=x\nMIICANARY-8d1f/canary-8d1f==", "a line has no property's name"),
        ] {
            let error = config(properties).unwrap_err().to_string();
            let shown = error.to_ascii_lowercase();
            assert!(error.contains(said) && !shown.contains("canary"), "{properties}: {error}");
        }
    }

    #[test]
    fn remote_broker_needs_a_protocol() {
        for local in ["localhost:1", "127.0.0.1", "[::1]:9092,localhost:1", "PLAINTEXT://127.0.0.2:1"] {
            config_for(local, None, "").expect(local);
        }
        for remote in ["kafka:9092", "localhost:1, 192.0.2.1:9092", "[2001:db8::1]:1", "SSL://kafka"] {
            let error = config_for(remote, None, "").unwrap_err().to_string();
            assert!(error.contains("KAFKA_SECURITY_PROTOCOL must be set: expected plaintext, ssl"), "{error}");
            let set = config_for(remote, Some("sasl_ssl"), "").unwrap();
            assert_eq!(set.get(PROTOCOL), Some("sasl_ssl"));
            config_for(remote, None, "security.protocol=PLAINTEXT").expect(remote);
        }
        assert!(config_for("kafka:1", Some("ssl"), "security.protocol=plaintext").is_err(), "one of them is not meant");
    }
}
