//! Reads the partitions that the consumer group assigns and collects their records into batches.
//! SQL is `apply`'s, and what a batch means is `fold`'s.
//!
//! `thread` is the loop; `partition` holds the phases of a partition; `assignment` follows the
//! group and starts fetching; `log_check` verifies stored offsets against the log; `collect` takes
//! records; `offset_report` copies offsets to Kafka and reports the lag; `position` judges single
//! offsets; `group` holds the callbacks and properties of the Kafka client.

mod assignment;
mod collect;
mod group;
mod log_check;
mod offset_report;
mod partition;
pub(crate) mod position;
mod thread;

pub(crate) use self::collect::record;
pub use self::group::{GroupContext, consumer_config};
pub use self::thread::{BatchLimits, ConsumerThread, GROUP};
