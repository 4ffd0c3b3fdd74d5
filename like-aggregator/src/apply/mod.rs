//! Applying a batch: the worker, its transaction, the SQL and the errors.

pub mod error;
mod sql;
pub mod transaction;
pub mod worker;
