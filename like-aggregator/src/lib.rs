//! like-aggregator: reads like events from Kafka in batches, drops repeats, folds the rest into
//! one change per product and applies a batch, with the offsets it covers, in one transaction.
//!
//! A record's way: [`consume`] (the Kafka thread) puts it into a [`fold`] (pure), [`apply`]
//! hands that to [`apply::transaction`] (SQL), and the answer comes back to the consumer.

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
