//! Tests of the service over HTTP, on a real Kafka and a real PostgreSQL.

#![expect(clippy::float_cmp, reason = "metrics are whole numbers")]

mod bad_input;
mod browser;
mod button;
mod common;
mod configuration_page;
mod connections;
mod demo;
mod description;
mod event_ids;
mod history;
mod hostile;
mod jwks;
mod likes;
mod limits;
mod many;
mod metrics;
mod my_likes;
mod outcomes;
mod page;
mod partitions;
mod process;
mod producer;
mod publisher;
mod readiness;
mod reads;
mod receipts;
mod secrets;
mod shared_reads;
mod stream;
mod tokens;
mod top;
mod waiting;
mod wire;
