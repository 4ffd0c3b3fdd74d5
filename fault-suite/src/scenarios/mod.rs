//! The scenarios, one file for each kind of fault, and what they have in common.

use std::io::Write;
use std::mem;
use std::time::Duration;

use like_testkit::{Clicking, Crowd, Record, TestService, TestSystem, eventually};
use tempfile::NamedTempFile;

use crate::{Outcome, Run, Scenario, deltas};

mod kill;
mod network;
mod replicas;
mod servers;
mod sql;

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

    /// The same on this system, at a walking pace: for faults that last long. `properties` are
    /// the Kafka clients'.
    async fn on(run: Run, mut system: TestSystem, properties: &str) -> Self {
        let settings = kafka_properties(&mut system, properties);
        system.setup(&["--partitions", "8"]).await;
        let api = system.api(&[]).await;
        let crowd = strolling(run).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Waits until so many more likes are acknowledged.
    async fn acknowledges(&self, more: usize) {
        let before = self.crowd.acknowledged();
        eventually("likes are acknowledged", async || (self.crowd.acknowledged() >= before + more).then_some(())).await;
    }

    /// Waits until more is counted.
    async fn counts(&self) {
        let folded = async || self.system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await;
        let before = folded().await;
        eventually("more is counted", async || (folded().await > before).then_some(())).await;
    }

    /// Delta events, straight to these brokers.
    async fn add_deltas(&mut self, kafka: &str, count: usize) {
        let more = deltas::publish(kafka, &self.system.topic, "delta-only", count, 1).await;
        self.others = mem::take(&mut self.others).and(more);
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

/// Ten users who click some 400 times a second together, if they are let.
fn strolling(run: Run) -> Crowd {
    Crowd { pause: Duration::from_millis(50), ..Crowd::new(run.seed, 10, 20) }
}

/// How many requests this like-api has answered with a 503 or 504.
async fn refused(api: &TestService) -> f64 {
    api.metric("http_server_request_duration_seconds_count", "status_code=\"50").await
}

/// A consumer that dies is missed after three seconds, not ten.
const SHORT_SESSIONS: &str = "session.timeout.ms=3000\nheartbeat.interval.ms=500\n";
/// A client tries again soon, not in ten seconds.
const SOON_AGAIN: &str = "reconnect.backoff.max.ms=500\n";

/// The file must live as long as processes are started with it.
fn short_sessions(system: &mut TestSystem) -> NamedTempFile {
    kafka_properties(system, SHORT_SESSIONS)
}

/// Has all clients of Kafka started from now on take these properties, for as long as the file lives.
fn kafka_properties(system: &mut TestSystem, properties: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(properties.as_bytes()).expect("a temporary file");
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().expect("a path in UTF-8"));
    file
}
