//! The fold, without I/O: records in, changes per product out.

pub mod batch;
