//! The service as its callers see it: the real routes, on a real Kafka and a real PostgreSQL.

mod bad_input;
mod common;
mod likes;
mod partitions;
mod publisher;
mod reads;
mod receipts;
