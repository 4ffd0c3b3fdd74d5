//! A state model of fencing, rebalances and the swap of `rebuild`: two workers (processes, or
//! lanes of one), a rebuild, PostgreSQL, a consumer group
//! and a few faults. The checker visits every state that any order of their steps can reach; the fault suite tries some
//! orders on real servers.
//!
//! The crate holds tests only. Each step names the code that it models; check the step when that code changes. Not modelled:
//! dead letters, gaps in the log, event ids older than the window, more than two partitions or two workers, and two
//! orphaned transactions at once.

#![cfg(test)]

mod batch;
mod consumer;
mod faults;
mod model;
mod postgres;
mod rebuild;
mod state;
mod store;
mod tests;
