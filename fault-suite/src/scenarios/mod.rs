//! The scenarios, one file for each kind of fault, and what they have in common.

use std::io::Write;

use like_testkit::{Clicking, Crowd, Record, TestService, TestSystem};
use tempfile::NamedTempFile;

use crate::{Outcome, Run, Scenario};

mod garbage;
mod kill;
mod scene;
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

/// Both services on a system of their own, likes arriving.
struct Scene {
    system: TestSystem,
    api: TestService,
    crowd: Clicking,
    /// What other producers had acknowledged.
    others: Record,
    /// Held while processes may read it.
    _settings: NamedTempFile,
}

impl Scene {
    /// A system whose dead consumers are missed soon, one like-api, and a crowd that clicks.
    async fn start(run: Run, partitions: i32, users: usize, clicks: usize) -> Self {
        let mut system = TestSystem::new().await;
        let settings = short_sessions(&mut system);
        system.setup(&["--partitions", &partitions.to_string()]).await;
        let api = system.api(&[]).await;
        let crowd = Crowd::new(run.seed, users, clicks).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Ends the clicking, and compares: an aggregator must run.
    async fn outcome(self, faults: usize) -> Outcome {
        let record = self.crowd.finish().await.and(self.others);
        outcome(&record, &self.system, &self.api, faults).await
    }
}

/// What `record` says against what is counted.
async fn outcome(record: &Record, system: &TestSystem, api: &TestService, faults: usize) -> Outcome {
    let differences = record.compare(system, &api.client()).await;
    let acknowledged = record.event_ids.len();
    Outcome { faults, acknowledged, unsettled: record.unsettled, differences }
}

/// A consumer that dies is missed after three seconds, not ten. The file must live as long as
/// processes are started with it.
fn short_sessions(system: &mut TestSystem) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(b"session.timeout.ms=3000\nheartbeat.interval.ms=500\n").expect("a temporary file");
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().expect("a path in UTF-8"));
    file
}
