//! The topic: its log ends and records, the active topic of several, the fence of a closing one, records past a recorded
//! end, later events of a user and product, the last events of some users.

pub mod active;
pub mod fence;
pub mod later_events;
pub mod log_ends;
mod log_reader;
pub mod open_topic;
pub mod past_end;
pub mod user_events;

pub(crate) use self::log_reader::{LogReader, positions};
