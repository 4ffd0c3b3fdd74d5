//! The topic's name, limits and settings. `setup` makes it so; both services check it while they run.

/// The topic of the first layout.
pub const DEFAULT_TOPIC: &str = "like-update-topic-v1";

/// Default partition count of a topic made by `setup`: librdkafka sends a request per partition, so more partitions mean more
/// and smaller requests. It is fixed afterwards: more partitions would send a product's later events to another partition than
/// its earlier ones.
pub const DEFAULT_PARTITIONS: i32 = 12;

/// Largest record value, in bytes. A valid event is far smaller; a larger record is a dead letter.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;

/// The largest batch of our own producers, before compression: a few of the largest records, or many hundred likes.
pub const MAX_BATCH_BYTES: usize = 8 * MAX_VALUE_BYTES;

/// librdkafka's name for Java's default partitioner, so that producers in both languages send a
/// product to the same partition.
pub const PARTITIONER: &str = "murmur2_random";

/// Settings that `setup` gives the topic, whatever its replication. The first is required: compaction
/// would delete the history that the counts are folded from.
pub const TOPIC_SETTINGS: [(&str, &str); 5] = [
    (CLEANUP_POLICY, "delete"),
    ("message.timestamp.type", "LogAppendTime"),
    ("unclean.leader.election.enable", "false"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
];

/// The one topic setting whose change stops both services.
pub const CLEANUP_POLICY: &str = "cleanup.policy";

/// The topic setting that limits a batch of records.
pub const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// The value of [`MAX_MESSAGE_BYTES`] that fences every producer of a topic that is being closed. The broker still takes the
/// marker that ends a transaction (78 bytes), and no event: a batch has 61 bytes of head, and the event's id alone makes up
/// for the rest.
pub const FENCE_BYTES: usize = 100;

/// `min.insync.replicas` for a topic of this many replicas: 2 where losing one leaves two.
pub const fn min_insync_replicas(replicas: i32) -> i32 {
    if replicas >= 3 { 2 } else { 1 }
}
