//! Applying a batch: the worker, its transaction and the SQL.

pub mod error;
mod sql;
pub mod transaction;
pub mod worker;
