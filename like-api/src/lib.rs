//! Accepts likes over HTTP and publishes each as an event; serves counts and receipts. A like needs
//! Kafka. A read needs PostgreSQL, as does the start, once, to read the topic's layout. Counting is
//! like-aggregator's job.

pub mod app;
pub mod auth;
pub mod config;
pub mod cors;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod publish;
pub mod read;
pub mod server;
pub mod traces;
