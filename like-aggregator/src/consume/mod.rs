//! Reads the partitions that the consumer group assigns and collects their records into batches. `apply` runs the SQL, and
//! `fold` computes what a batch changes.
//!
//! `thread` is the loop; `partition` holds the phases of a partition; `assignment` follows the group and starts fetching;
//! `membership` notices that this consumer is outside its group; `log_check` verifies stored offsets against the log, by
//! the rules of `verification`; `collect` takes records and `collecting` holds them; `offset_report` copies offsets to Kafka and reports the lag;
//! `position` judges single offsets; `group` holds the callbacks and properties of the Kafka client.

mod assignment;
mod collect;
mod collecting;
mod group;
mod log_check;
mod membership;
mod offset_report;
mod partition;
pub(crate) mod position;
mod thread;
mod verification;

pub(crate) use self::collect::record;
pub use self::group::{GroupContext, consumer_config};
pub use self::membership::NotAMember;
pub use self::thread::{BatchLimits, ConsumerThread, GROUP};
