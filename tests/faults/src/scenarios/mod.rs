//! The scenarios, one file for each kind of fault. What they have in common: `scene.rs`.

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

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "kill",
        what: "kill -9 of the aggregator, at random and at the worst moments",
        run: |run| Box::pin(kill::kill(run)),
    },
    Scenario {
        name: "servers",
        what: "kill -9 of the broker, of PostgreSQL, of both",
        run: |run| Box::pin(servers::servers(run)),
    },
    Scenario {
        name: "network",
        what: "lines to broker and database cut, delayed, frozen; answers to COMMIT lost",
        run: |run| Box::pin(network::network(run)),
    },
    Scenario {
        name: "replicas",
        what: "a like asked for again through another replica, after a 504",
        run: |run| Box::pin(replicas::replicas(run)),
    },
    Scenario {
        name: "sql",
        what: "deadlocks, serialization failures, a locked table, a full disk, a read-only database",
        run: |run| Box::pin(sql::sql(run)),
    },
    Scenario {
        name: "storm",
        what: "a rebalance storm: 8 aggregators, 32 partitions, stops, kills and starts at random",
        run: |run| Box::pin(storm::storm(run)),
    },
    Scenario {
        name: "stopped",
        what: "an aggregator stopped past its session timeout and continued, also in mid-transaction",
        run: |run| Box::pin(stopped::stopped(run)),
    },
    Scenario {
        name: "twice",
        what: "every event published twice, some a million records apart",
        run: |run| Box::pin(twice::twice(run)),
    },
    Scenario {
        name: "swap",
        what: "the swap of a rebuild under full load, workers waiting for their offsets",
        run: |run| Box::pin(swap::swap(run)),
    },
    Scenario {
        name: "topic",
        what: "the topic deleted and made anew, and cut by retention",
        run: |run| Box::pin(topic::topic(run)),
    },
    Scenario { name: "garbage", what: "a fifth of the records is garbage", run: |run| Box::pin(garbage::garbage(run)) },
];

/// The scenario of this name.
pub fn named(name: &str) -> &'static Scenario {
    ALL.iter().find(|scenario| scenario.name == name).unwrap_or_else(|| panic!("no scenario {name}"))
}
