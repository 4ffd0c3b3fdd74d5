//! Applying a batch: the worker, its transaction and the SQL.

mod sql;
pub mod transaction;
pub mod worker;
