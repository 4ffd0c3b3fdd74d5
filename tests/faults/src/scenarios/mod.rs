//! The scenarios, one file for each kind of fault. `scene.rs` holds what they share.

use crate::Scenario;

mod brokers;
mod failover;
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
mod upgrade;

/// Declares `ALL`. The modules stay outside, because rustfmt doesn't find modules in a macro.
/// Without `of`, a scenario's module has its name.
macro_rules! scenarios {
    ($($name:ident $(of $module:ident)?: $what:literal,)+) => {
        /// All scenarios, in the order in which they run.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            what: $what,
            run: |run| Box::pin(function!($name $($module)?)(run)),
        }),+];
    };
}

macro_rules! function {
    ($name:ident) => {
        $name::$name
    };
    ($name:ident $module:ident) => {
        $module::$name
    };
}

scenarios! {
    kill: "kill -9 of the aggregator, at random and at the worst moments",
    servers: "kill -9 of the broker, of PostgreSQL, of both",
    network: "connections to broker and database cut, delayed, frozen; answers to COMMIT lost",
    replicas: "a like retried through another replica after a 504",
    sql: "deadlocks, serialization failures, a locked table, a full disk, a read-only database",
    storm: "a rebalance storm: 8 aggregators, 32 partitions, random stops, kills and starts",
    stopped: "an aggregator stopped past its session timeout and continued, also in mid-transaction",
    twice: "every event published twice, some a million records apart",
    swap: "the swap of a rebuild under full load, with workers waiting for their offsets",
    topic: "the topic deleted and created again, and records removed by retention",
    garbage: "a fifth of the records breaks the contract",
    leaders of brokers: "three brokers: the leader of a busy partition killed and restarted, in turn",
    rolled of brokers: "three brokers: all restarted one by one",
    frozen of brokers: "three brokers: the leader of a busy partition stopped (SIGSTOP) and continued",
    controller of brokers: "three brokers: kill -9 of the active controller",
    two_down of brokers: "three brokers: kill -9 of two",
    upgrade: "from an older release under load, old and new replicas side by side (OLD_PROGRAMS)",
    failover: "PostgreSQL's primary killed and its standby promoted, behind and synchronous",
}

/// Those that run only if they are asked for.
pub const LONGER: [&str; 3] = ["rolled", "frozen", "controller"];

/// The one that needs an older release: `make test-upgrade`.
pub const UPGRADE: &str = "upgrade";

/// Returns the scenario of this name.
pub fn named(name: &str) -> &'static Scenario {
    ALL.iter().find(|scenario| scenario.name == name).unwrap_or_else(|| panic!("no scenario {name}"))
}
