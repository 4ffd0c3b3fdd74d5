//! Takes likes over HTTP and publishes each as an event; answers counts and receipts. Kafka is
//! needed to take a like, PostgreSQL to answer a read and, once after the start, to learn the
//! topic's layout. Counting is like-aggregator's.

pub mod app;
pub mod auth;
pub mod config;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod publish;
pub mod read;
pub mod server;
pub mod traces;
