//! The service as its callers see it: the real routes, on a real Kafka and a real PostgreSQL.

mod bad_input;
mod browser;
mod common;
mod description;
mod connections;
mod hostile;
mod jwks;
mod likes;
mod limits;
mod metrics;
mod outcomes;
mod partitions;
mod process;
mod producer;
mod publisher;
mod readiness;
mod reads;
mod receipts;
mod shared_reads;
mod waiting;
mod wire;
mod secrets;
mod tokens;
