//! librdkafka's callbacks and the consumer's properties. The callbacks only record rebalances, log ends and changes of the
//! topic; the consumer thread acts on them, since a partition can't be fetched before PostgreSQL has returned its offset.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, TopicPartitionList};
use tracing::{debug, error, info, warn};

/// How often librdkafka reports where the log ends, in milliseconds.
const STATISTICS_MS: &str = "2000";

#[derive(Debug)]
pub enum Rebalanced {
    Assigned(Vec<i32>),
    Revoked {
        partitions: Vec<i32>,
        /// The group has expelled this member, or can't be reached any more.
        lost: bool,
    },
}

/// The last of librdkafka's periodic statistics.
#[derive(Debug)]
pub struct LogReport {
    /// Per partition that is being fetched, the log's ends.
    pub log_ends: HashMap<i32, ReportedEnds>,
    /// Partitions that it doesn't fetch: they aren't assigned, or their offset lies outside the log.
    pub not_fetched: HashSet<i32>,
    pub brokers_up: bool,
    /// Why this consumer is not a member of its group now; None: it is.
    pub not_joined: Option<String>,
}

/// The ends of a log (see `topic::log_ends`).
#[derive(Debug, Clone, Copy)]
pub struct ReportedEnds {
    pub stable: i64,
    /// None: not known.
    pub written: Option<i64>,
    /// Whether `poll` has returned all records up to `stable`.
    pub all_polled: bool,
}

/// The part of librdkafka's log line about a topic that it sees for the first time: an id of zeros, in base64.
const FROM_NONE: &str = "changed id from AAAAAAAAAAAAAAAAAAAAAA ";

#[derive(Default)]
pub struct GroupContext {
    rebalances: Mutex<VecDeque<Rebalanced>>,
    report: Mutex<Option<LogReport>>,
    /// The topic was created again.
    topic_changed: AtomicBool,
    /// The consumer thread no longer acts on rebalances: the callback answers librdkafka itself.
    closing: AtomicBool,
}

impl GroupContext {
    /// Returns the oldest rebalance not acted on yet.
    pub fn next_rebalance(&self) -> Option<Rebalanced> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Returns librdkafka's latest report, if there is one since the last call.
    pub fn new_report(&self) -> Option<LogReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the topic was created again since the last call. Known before its first record can be fetched.
    pub fn topic_has_changed(&self) -> bool {
        self.topic_changed.swap(false, Ordering::Relaxed)
    }

    /// Answers pending rebalances. From now on the callback answers new ones itself.
    pub fn close(&self, consumer: &BaseConsumer<Self>) {
        self.closing.store(true, Ordering::Relaxed);
        while let Some(event) = self.next_rebalance() {
            Self::answer(consumer, matches!(event, Rebalanced::Assigned(_)));
        }
    }

    fn answer(consumer: &BaseConsumer<Self>, assigned: bool) {
        let answered =
            if assigned { consumer.incremental_assign(&TopicPartitionList::new()) } else { consumer.unassign() };
        debug!(?answered, assigned, "rebalance while closing");
    }
}

impl ClientContext for GroupContext {
    /// When a topic was deleted and created again, librdkafka continues at the same offset, without an error if the new
    /// log is long enough. Only this log line reports it.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if facility == "METADATA" && text.contains("changed id from") && !text.contains(FROM_NONE) {
            self.topic_changed.store(true, Ordering::Relaxed);
        }
        match level {
            RDKafkaLogLevel::Debug => debug!(target: "librdkafka", facility, text),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => info!(target: "librdkafka", facility, text),
            RDKafkaLogLevel::Warning => warn!(target: "librdkafka", facility, text),
            _ => error!(target: "librdkafka", facility, text),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let brokers_up = statistics.brokers.values().any(|broker| broker.state == "UP");
        let not_joined = statistics.cgrp.filter(|group| group.join_state != "steady").map(|group| {
            let reason = if group.rebalance_reason.is_empty() { "not answered yet" } else { &group.rebalance_reason };
            format!("{} ({})", reason, group.join_state)
        });
        let mut report = LogReport { brokers_up, not_joined, log_ends: HashMap::new(), not_fetched: HashSet::new() };
        for (id, partition) in statistics.topics.into_values().flat_map(|topic| topic.partitions) {
            let stable = partition.ls_offset;
            if stable >= 0 {
                // The queue is that of all partitions. Markers are fetched, too, and not passed on.
                let all_polled = partition.next_offset >= stable && partition.fetchq_cnt == 0;
                let written = Some(partition.hi_offset).filter(|written| *written >= 0);
                report.log_ends.insert(id, ReportedEnds { stable, written, all_polled });
            }
            if partition.fetch_state == "none" {
                report.not_fetched.insert(id);
            }
        }
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Relaxed) {
            return Self::answer(consumer, assigned);
        }
        let event = if assigned {
            Rebalanced::Assigned(partitions)
        } else {
            Rebalanced::Revoked { partitions, lost: consumer.assignment_lost() }
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            debug!(%error, "the copy of the offsets was not committed to Kafka");
        }
    }
}

/// The consumer's properties: what the contract fixes, and defaults for what an operator may tune.
pub fn consumer_config(mut config: ClientConfig, group: &str) -> ClientConfig {
    config
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Never resets silently: an offset outside the log is an error.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("statistics.interval.ms", STATISTICS_MS);
    // For `GroupContext::log`: some lines per refresh of the metadata.
    let debug = config.get("debug").map_or_else(|| "metadata".to_owned(), |set| format!("{set},metadata"));
    config.set("debug", debug).set_log_level(RDKafkaLogLevel::Debug);
    let tuned: [(&[&str], &str); 8] = [
        // Default 1000: a full queue would stop fetching for a second, four times slower.
        (&["fetch.queue.backoff.ms"], "5"),
        // Default 64 MiB: records fetched ahead (each takes some 400 bytes in addition to its own). One to two batches ahead
        // are enough: more is no faster, and takes 70 to 90 MiB instead of 45.
        (&["queued.max.messages.kbytes"], "3072"),
        // Defaults 50 MiB, and 1 MiB of a partition. They count compressed bytes: a whole response is decompressed at once,
        // to a thousand times its size if someone wants it, so a partition gets little. 128 KiB for all of them took a
        // quarter off the drain with DEDUP=batch (docs/PERFORMANCE.md).
        (&["fetch.max.bytes"], "1048576"),
        (&["fetch.message.max.bytes", "max.partition.fetch.bytes"], "65536"),
        // A consumer's `fetch.max.bytes` is raised to this.
        (&["message.max.bytes"], "65536"),
        // Default 45 s: how long a killed worker's partitions stay uncounted.
        (&["session.timeout.ms"], "10000"),
        (&["heartbeat.interval.ms"], "2000"),
        // Default 60 s: how long a broker that hangs is asked for records, though another one may lead its partitions by then.
        (&["socket.timeout.ms"], "10000"),
    ];
    // A property and its alias are the same to librdkafka, which would take either.
    for (names, value) in tuned {
        if names.iter().all(|name| config.get(name).is_none()) {
            config.set(names[0], value);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_alias_replaces_the_default() {
        let mut set = ClientConfig::new();
        set.set("max.partition.fetch.bytes", "1048576");
        let config = consumer_config(set, "g");
        assert_eq!(config.get("fetch.message.max.bytes"), None);
        assert_eq!(config.get("fetch.max.bytes"), Some("1048576"));
    }
}
