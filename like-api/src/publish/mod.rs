//! Publishing: the producer, its delivery reports, and the write gate.

mod delivery;
pub mod outcome;
pub mod producer;
mod properties;
pub mod write_gate;
