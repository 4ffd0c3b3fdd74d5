//! Measurements of the whole system. What several of them need is here; each program of its own
//! is in `bin/`, the k6 script and what starts it beside this folder.

pub mod aggregator;
pub mod api;
pub mod backlog;
pub mod bench;
pub mod claims;
pub mod cores;
pub mod database;
pub mod drain;
pub mod generate;
pub mod log;
pub mod marked;
pub mod reference;
pub mod report;
