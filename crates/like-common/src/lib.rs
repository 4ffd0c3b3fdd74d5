//! What both services share to run, and nothing of what they do: settings from flags and
//! environment, logs, traces, shutdown, the admin port, the clients of Kafka and PostgreSQL, and the
//! check that the topic still is what its layout says.

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod database;
pub mod health;
pub mod kafka;
pub mod layout;
pub mod metrics;
pub mod migrations;
pub mod secrets;
pub mod shutdown;
pub mod telemetry;
pub mod topic_check;
pub mod trace_context;
pub mod traces;
