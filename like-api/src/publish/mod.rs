//! Publishing: the producer, its delivery reports, and the write gate.

mod delivery;
mod end_offsets;
mod load;
pub mod outcome;
pub mod producer;
mod properties;
pub mod topic_facts;
pub mod write_gate;
