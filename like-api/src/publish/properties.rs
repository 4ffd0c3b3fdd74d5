//! The properties of the Kafka client: defaults that an operator may change, and those that the contract
//! fixes.

use like_events::topic::PARTITIONER;
use rdkafka::ClientConfig;

const LINGER: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

/// Defaults that `KAFKA_CONFIG_FILE` may change, with all spellings of each property.
/// - queue: holds what a broker accepts in well under a second. Requests that would wait longer are
///   better refused at once.
/// - reconnect: after an outage likes are accepted at once, not up to ten seconds later.
/// - propagation: likes for a deleted topic are refused at once. librdkafka would wait half a minute for it to come back;
///   the service opens only once its topic is there.
/// - batch: many hundred likes. One refused event fails its whole batch, and `limit_batches` follows smaller topics.
const DEFAULTS: [(&str, &str, &[&str]); 5] = [
    ("compression.type", "lz4", &["compression.type", "compression.codec"]),
    ("queue.buffering.max.messages", "20000", &["queue.buffering.max.messages"]),
    ("reconnect.backoff.max.ms", "1000", &["reconnect.backoff.max.ms"]),
    ("topic.metadata.propagation.max.ms", "0", &["topic.metadata.propagation.max.ms"]),
    ("batch.size", "131072", &["batch.size"]),
];

/// Properties that the contract fixes. Every event gets its report within `message.timeout.ms` and the
/// second in which librdkafka checks for it, and no event is written long after its 504. librdkafka
/// itself limits `max.in.flight` to the idempotent producer's five.
const FIXED: [(&str, &str); 6] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", PARTITIONER),
    ("message.timeout.ms", "5000"),
    // Only statistics show when a producer has its id. They are parsed until then; afterwards they
    // can't be turned off (0.5 % of a core at 50 ms with 32 partitions).
    ("statistics.interval.ms", "200"),
    // So that watermarks are the log's end, and not the start of another producer's open transaction.
    ("isolation.level", "read_uncommitted"),
];

/// How long the second producer gathers events. At 256 connections and more, longer doesn't raise the rate.
const GATHER_MS: &str = "2";

/// librdkafka's default of `batch.size`.
const BATCH_BYTES: usize = 1_000_000;

/// Limits batches to what the topic takes: the broker refuses a whole batch for one event that is too large for it.
/// librdkafka counts uncompressed bytes, and sends an event above the limit alone.
pub(super) fn limit_batches(config: &mut ClientConfig, max_message_bytes: usize) {
    let chosen = config.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(BATCH_BYTES);
    config.set("batch.size", chosen.min(max_message_bytes).max(1).to_string());
}

/// Returns whether batches of `config` may be larger than this.
pub(super) fn batches_exceed(config: &ClientConfig, max_message_bytes: usize) -> bool {
    config.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(BATCH_BYTES) > max_message_bytes
}

/// Returns the configurations of the producers: one that sends at once, and one that gathers events for some milliseconds
/// (see `producer`). Only one if the operator has chosen a linger.
pub(super) fn by_linger(config: &ClientConfig) -> Vec<ClientConfig> {
    if LINGER.iter().any(|spelling| config.get(spelling).is_some()) {
        return vec![config.clone()];
    }
    let with = |linger| config.clone().set("linger.ms", linger).clone();
    vec![with("0"), with(GATHER_MS)]
}

/// Sets the fixed properties, and the defaults that `config` leaves open.
pub(super) fn apply(config: &mut ClientConfig) {
    for (property, value, spellings) in DEFAULTS {
        if spellings.iter().all(|spelling| config.get(spelling).is_none()) {
            config.set(property, value);
        }
    }
    for (property, value) in FIXED {
        config.set(property, value);
    }
}
