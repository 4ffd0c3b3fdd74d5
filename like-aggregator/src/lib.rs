//! like-aggregator: reads like events from Kafka in batches, drops repeats, folds the rest into
//! one change per product and applies a batch, with the offsets it covers, in one transaction.
//!
//! A record's way: [`consumer`] (the Kafka thread) puts it into a [`batch`] (pure), [`worker`]
//! hands that to [`store`] (SQL), and the answer comes back to the consumer.

#[cfg(all(any(feature = "fault-points", feature = "wrong-fold"), not(debug_assertions)))]
compile_error!("fault-points and wrong-fold are for tests: nothing that is built as it is shipped may have them");

pub mod batch;
pub mod commands;
pub mod config;
pub mod consumer;
pub mod fault;
pub mod late;
pub mod log_ends;
pub mod metrics;
mod open_topic;
mod output;
mod publish;
pub mod replay;
pub mod roles;
pub mod scratch;
pub mod store;
mod tables;
pub mod timing;
pub mod traces;
pub mod turn;
pub mod upkeep;
pub mod worker;
