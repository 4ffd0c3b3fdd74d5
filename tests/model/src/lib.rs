//! A model of fencing, rebalances and the swap of `rebuild`. stateright visits every reachable state,
//! so it checks all orders of the steps; the fault suite runs some orders on the real programs.
//!
//! Modelled: two workers, one rebuild, PostgreSQL's row and table locks, the consumer group, the
//! offsets in Kafka, and crashes, lost connections and lost answers to COMMIT; at most two
//! partitions with a few records each, and a bounded number of moves and faults.
//!
//! Not modelled: retention and re-created topics, timeouts as such (a timeout is a step that may
//! happen at any moment), dead letters, dropped windows, and more than one transaction left behind
//! by its client. docs/ARCHITECTURE.md says more.
//!
//! Tests only. Each module and step names the code that it stands for: a change there needs a look
//! at the model.

#[cfg(test)]
mod batch;
#[cfg(test)]
mod consumer;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod model;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod rebuild;
#[cfg(test)]
mod state;
#[cfg(test)]
mod store;
#[cfg(test)]
mod tests;
