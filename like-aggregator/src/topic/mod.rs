//! The topic: its log ends, the active topic of several, records past a recorded end.

pub mod active;
pub mod log_ends;
pub mod open_topic;
pub mod past_end;
