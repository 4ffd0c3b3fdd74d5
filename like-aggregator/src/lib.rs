//! like-aggregator: reads like events from Kafka in batches, drops duplicates, folds the rest into
//! one delta per product and applies a batch, with its offsets, in one transaction.
//!
//! [`consume`] (the Kafka thread) collects records into a batch; [`apply`] runs the batch's
//! transaction with what [`fold`] (pure) makes of it, and reports back to [`consume`].

#[cfg(all(any(feature = "fault-points", feature = "wrong-fold"), not(debug_assertions)))]
compile_error!("fault-points and wrong-fold are for tests: nothing that is built as it is shipped may have them");

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
