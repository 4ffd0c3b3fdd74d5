//! For tests and benchmarks: topics, databases, processes, proxies and load. Every test has its own
//! topic and database on a shared Kafka and PostgreSQL, so that tests run in parallel.

pub mod broker;
mod client;
mod cluster;
mod collector;
pub mod configuration_page;
mod crowd;
mod database;
pub mod drill;
mod events;
mod http;
mod pooler;
pub mod process;
mod proxy;
mod record;
mod servers;
mod system;
pub mod tokens;
mod topic;
mod wait;

pub use broker::{Scram, TestBroker};
pub use client::{Acknowledged, TestClient};
pub use cluster::TestCluster;
pub use collector::{TestCollector, TestSpan};
pub use crowd::{Clicking, Crowd};
pub use database::TestDatabase;
pub use events::event;
pub use pooler::TestPooler;
pub use proxy::TestProxy;
pub use record::{Click, Differences, Record};
pub use servers::{Server, TestServers, TestStandby, server_of};
pub use system::{AdminPort, TestService, TestSystem};
pub use topic::{TestTopic, Transactions, reader};
pub use wait::{eventually, eventually_within, until};

/// Bootstrap servers of the shared Kafka.
pub fn kafka() -> String {
    var("TEST_KAFKA_BOOTSTRAP_SERVERS")
}

/// The folder of Kafka's jars, for tests that start a broker or a Java client.
pub fn kafka_libs() -> String {
    var("TEST_KAFKA_LIBS")
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`"))
}
