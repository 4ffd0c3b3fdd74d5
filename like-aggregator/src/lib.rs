//! like-aggregator: reads like events from Kafka in batches, drops repeats, folds the rest into
//! one change per product and applies a batch, with the offsets it covers, in one transaction.
//!
//! A record's way: [`consume`] (the Kafka thread) puts it into a [`fold`] (pure), [`apply`]
//! hands that to [`apply::transaction`] (SQL), and the answer comes back to the consumer.

#[cfg(all(feature = "fault-points", not(debug_assertions)))]
compile_error!("fault-points is for tests: a release build can't have it");

pub mod apply;
pub mod cli;
pub mod commands;
pub mod consume;
pub mod fault;
pub mod fold;
pub mod metrics;
pub mod replay;
pub mod run;
pub mod schema;
pub mod timing;
pub mod topic;
pub mod traces;
