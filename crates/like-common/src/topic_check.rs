//! Compares the topic with its layout, at start and every minute. Two differences stop the service: another number of
//! partitions, which remaps products and breaks their order, and compaction, which deletes events. Others are warnings.

use std::time::Duration;

use anyhow::{Context, anyhow};
use like_events::topic::{CLEANUP_POLICY, TOPIC_SETTINGS, min_insync_replicas};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

/// The time between two checks.
pub const INTERVAL: Duration = Duration::from_secs(60);

const TIMEOUT: Duration = Duration::from_secs(10);
const ASK: Duration = Duration::from_secs(3);

/// The topic as the brokers describe it.
#[derive(Debug, Clone)]
pub struct LiveTopic {
    pub name: String,
    pub partitions: i32,
    /// The number of replicas of its first partition.
    pub replicas: i32,
    /// Its settings, defaults included.
    pub settings: Vec<(String, String)>,
}

impl LiveTopic {
    /// Returns the value of a setting, or an empty text.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why the service must stop, if it must.
    pub fatal: Option<String>,
    /// Differences that an operator should review.
    pub warnings: Vec<String>,
}

/// What outlasts an outage of the aggregators: a day, and 100 MiB per partition.
const LEAST_RETENTION: [(&str, i64); 2] = [("retention.ms", 86_400_000), ("retention.bytes", 100 << 20)];

/// Describes a topic; None if it does not exist.
pub async fn describe(config: &ClientConfig, topic: &str) -> anyhow::Result<Option<LiveTopic>> {
    // Dropping a client blocks too: it joins threads that may be waiting for a name server.
    let (config, topic) = (config.clone(), topic.to_owned());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let admin: AdminClient<DefaultClientContext> = config.create().context("Kafka client")?;
        // A polled consumer reports errors of brokers, such as a wrong password; an admin client does not.
        let consumer: BaseConsumer = config.create().context("Kafka client")?;
        let metadata = consumer.fetch_metadata(Some(&topic), ASK).map_err(|error| {
            let polled = std::iter::from_fn(|| consumer.poll(Duration::ZERO));
            let reported = polled.filter_map(Result::err).last();
            let error = anyhow::Error::new(error);
            reported.map_or(error, |reported| anyhow!(reported)).context("Kafka can't be asked about the topic")
        })?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(None),
            Some(code) => return Err(anyhow!("Kafka can't describe topic {topic}: {code}")),
        }
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let described = runtime.block_on(admin.describe_configs(&[ResourceSpecifier::Topic(&topic)], &options))?;
        let resource = described.into_iter().next().context("Kafka described nothing")?;
        let resource = resource.map_err(|code| anyhow!("Kafka can't describe topic {topic}: {code}"))?;
        Ok(Some(LiveTopic {
            partitions: found.partitions().len() as i32,
            replicas: found.partitions().first().map_or(0, |p| p.replicas().len() as i32),
            settings: resource.entries.into_iter().filter_map(|e| Some((e.name, e.value?))).collect(),
            name: topic,
        }))
    })
    .await?
}

/// Compares a topic with the partition count of its layout and the settings that `setup` makes.
pub fn compare(live: Option<&LiveTopic>, topic: &str, partitions: i32) -> Findings {
    let Some(live) = live else {
        let fatal = format!("topic {topic} does not exist; its layout says {partitions} partitions");
        return Findings { fatal: Some(fatal), warnings: Vec::new() };
    };
    let mut findings = Findings::default();
    if live.partitions != partitions {
        findings.fatal = Some(format!(
            "topic {topic} has {} partitions and its layout says {partitions}: products have moved to other \
             partitions and their order is lost; more partitions need a new topic",
            live.partitions
        ));
    }
    let policy = live.setting(CLEANUP_POLICY);
    if policy.contains("compact") {
        let fatal = format!("topic {topic} has {CLEANUP_POLICY}={policy}: compaction deletes events; set it to delete");
        findings.fatal.get_or_insert(fatal);
    }
    let replicas = min_insync_replicas(live.replicas).to_string();
    let wanted = TOPIC_SETTINGS.iter().copied().chain([("min.insync.replicas", replicas.as_str())]);
    for (name, want) in wanted.filter(|(name, _)| *name != CLEANUP_POLICY) {
        let found = live.setting(name);
        let enough = name == "min.insync.replicas"
            && found.parse::<i32>().is_ok_and(|n| n >= min_insync_replicas(live.replicas));
        // The operator chooses the retention: see below.
        if found != want && !enough && !name.starts_with("retention.") {
            findings.warnings.push(format!("topic {topic} has {name}={found}, expected {want}"));
        }
    }
    for (name, least) in LEAST_RETENTION {
        if let Ok(kept @ 0..) = live.setting(name).parse::<i64>()
            && kept < least
        {
            findings.warnings.push(format!(
                "topic {topic} has {name}={kept}, less than {least}: likes may be removed before they are counted"
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(partitions: i32, replicas: i32, changes: &[(&str, &str)]) -> LiveTopic {
        let mut settings: Vec<(String, String)> =
            TOPIC_SETTINGS.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        settings.push(("min.insync.replicas".to_owned(), min_insync_replicas(replicas).to_string()));
        for (name, value) in changes {
            settings.iter_mut().find(|(n, _)| n == name).unwrap().1 = (*value).to_owned();
        }
        LiveTopic { name: "t".to_owned(), partitions, replicas, settings }
    }

    #[test]
    fn topic_made_by_setup_passes() {
        for replicas in [1, 3] {
            assert_eq!(compare(Some(&live(32, replicas, &[])), "t", 32), Findings::default());
        }
    }

    #[test]
    fn other_partition_count_compaction_or_absence_is_fatal() {
        let fatal = |topic: Option<&LiveTopic>| compare(topic, "t", 32).fatal.unwrap();
        assert!(fatal(Some(&live(33, 1, &[]))).contains("33 partitions"));
        assert!(fatal(Some(&live(32, 1, &[("cleanup.policy", "compact,delete")]))).contains("compact"));
        assert!(fatal(None).contains("does not exist"));
    }

    #[test]
    fn other_differences_warn() {
        let changed = live(32, 3, &[("min.insync.replicas", "1"), ("message.timestamp.type", "CreateTime")]);
        let findings = compare(Some(&changed), "t", 32);
        assert_eq!((findings.fatal, findings.warnings.len()), (None, 2));
        let chosen = live(32, 1, &[("min.insync.replicas", "2"), ("retention.ms", "86400000")]);
        assert_eq!(compare(Some(&chosen), "t", 32), Findings::default());
        let short = compare(Some(&live(32, 1, &[("retention.ms", "1000")])), "t", 32);
        assert!(short.fatal.is_none() && short.warnings[0].contains("retention.ms=1000"), "{short:?}");
    }
}
