//! What both services need to run: settings from flags and environment, logs, metrics, traces,
//! shutdown, the admin port, clients of Kafka and PostgreSQL, and the check of the topic against its
//! layout. What the services do is in their own crates.

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod database;
pub mod error_text;
pub mod health;
pub mod kafka;
pub mod layout;
pub mod metrics;
pub mod migrations;
pub mod secrets;
pub mod session;
pub mod shutdown;
pub mod telemetry;
pub mod topic_check;
pub mod trace_context;
pub mod traces;
pub mod transport;
