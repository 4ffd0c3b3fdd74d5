//! The scenarios, one file for each kind of fault, and `scene.rs`, which they share.

use crate::Scenario;

mod garbage;
mod kill;
mod network;
mod replicas;
mod scene;
mod servers;
mod sql;
mod stopped;
mod storm;
mod swap;
mod topic;
mod twice;

macro_rules! scenarios {
    ($($name:ident: $what:literal,)*) => {
        &[$(Scenario { name: stringify!($name), what: $what, run: |run| Box::pin($name::$name(run)) }),*]
    };
}

/// All scenarios in the order of their execution.
pub const ALL: &[Scenario] = scenarios! {
    kill: "kill -9 of the aggregator at random and worst moments",
    servers: "kill -9 of Kafka, of PostgreSQL, and of both",
    network: "connections to Kafka and PostgreSQL cut, delayed, frozen; answers to COMMIT lost",
    replicas: "504 from one replica, then a retry through another",
    sql: "deadlock, serialization failure, locked table, full disk, read-only database",
    storm: "rebalance storm: 8 aggregators, 32 partitions, stops, kills and starts at random",
    stopped: "SIGSTOP of an aggregator past its session timeout, also inside a transaction",
    twice: "every event published twice, some a million records apart",
    swap: "rebuilds swapped in under load while workers wait for their offsets",
    topic: "topic deleted and re-created, or cut by retention",
    garbage: "a fifth of the records invalid, aggregators killed meanwhile",
};

pub fn named(name: &str) -> &'static Scenario {
    ALL.iter().find(|scenario| scenario.name == name).unwrap_or_else(|| panic!("no scenario {name}"))
}
