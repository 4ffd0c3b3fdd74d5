//! like-aggregator: reads like events from Kafka in batches, drops duplicates, folds the rest into one change per product,
//! and applies each batch with its offsets in one transaction.
//!
//! [`consume`] (the Kafka thread) collects records into a batch; [`apply`] folds it by [`fold`] (pure), runs its
//! transaction and reports back to [`consume`].

#[cfg(all(feature = "fault-points", not(debug_assertions)))]
compile_error!("fault-points is for tests: a release build can't have it");

pub mod apply;
pub mod cli;
pub mod commands;
pub mod consume;
pub mod fault;
pub mod fold;
pub mod metrics;
mod progress;
pub mod replay;
pub mod run;
pub mod schema;
pub mod timing;
pub mod topic;
pub mod traces;
