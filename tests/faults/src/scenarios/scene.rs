//! What scenarios have in common: both services with users who click, and the comparison at the end.

use std::io::Write;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use like_testkit::{Clicking, Crowd, Record, TestService, TestSystem, eventually};
use tempfile::NamedTempFile;

use crate::{Outcome, Run, deltas};

/// Both services on a system of their own, likes arriving.
pub(super) struct Scene {
    pub(super) system: TestSystem,
    pub(super) api: TestService,
    pub(super) crowd: Clicking,
    /// What other producers had acknowledged.
    pub(super) others: Record,
    /// Held while processes may read it.
    pub(super) _settings: NamedTempFile,
}

impl Scene {
    /// A system whose dead consumers are missed soon, one like-api, and a crowd that clicks.
    pub(super) async fn start(run: Run, partitions: i32, users: usize, clicks: usize) -> Self {
        let mut system = TestSystem::new().await;
        let settings = short_sessions(&mut system);
        system.setup(&["--partitions", &partitions.to_string()]).await;
        let api = system.api(&[]).await;
        let crowd = Crowd::new(run.seed, users, clicks).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// The same on this system, at a walking pace: for faults that last long. `properties` are
    /// the Kafka clients'.
    pub(super) async fn on(run: Run, mut system: TestSystem, properties: &str) -> Self {
        let settings = kafka_properties(&mut system, properties);
        system.setup(&["--partitions", "8"]).await;
        let api = system.api(&[]).await;
        let crowd = strolling(run).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// The same as [`Scene::start`] on a topic that is there already.
    pub(super) async fn on_topic(mut system: TestSystem, run: Run, users: usize, clicks: usize) -> Self {
        let settings = short_sessions(&mut system);
        let api = system.api(&[]).await;
        let crowd = Crowd::new(run.seed, users, clicks).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Waits until so many more likes are acknowledged.
    pub(super) async fn acknowledges(&self, more: usize) {
        let before = self.crowd.acknowledged();
        eventually("likes are acknowledged", async || (self.crowd.acknowledged() >= before + more).then_some(())).await;
    }

    /// Waits until more is counted.
    pub(super) async fn counts(&self) {
        let folded = async || self.system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await;
        let before = folded().await;
        eventually("more is counted", async || (folded().await > before).then_some(())).await;
    }

    /// Delta events, straight to these brokers.
    pub(super) async fn add_deltas(&mut self, kafka: &str, count: usize) {
        let more = deltas::publish(kafka, &self.system.topic, "delta-only", count, 1).await;
        self.others = mem::take(&mut self.others).and(more);
    }

    /// So many delta events for each of these products, published before this answers.
    pub(super) async fn deltas(&mut self, products: Range<usize>, each: usize) {
        let events: Vec<_> = products.flat_map(|n| deltas::events(&format!("delta-{n}"), each)).collect();
        deltas::send(&like_testkit::kafka(), &self.system.topic, &events).await;
        self.others = mem::take(&mut self.others).and(deltas::record(&events));
    }

    /// Ends the clicking, and compares: an aggregator must run.
    pub(super) async fn outcome(self, faults: usize) -> Outcome {
        let record = self.crowd.finish().await.and(self.others);
        outcome(&record, &self.system, &self.api, faults).await
    }
}

/// What `record` says against what is counted.
pub(super) async fn outcome(record: &Record, system: &TestSystem, api: &TestService, faults: usize) -> Outcome {
    let differences = record.compare(system, &api.client()).await;
    let acknowledged = record.event_ids.len();
    Outcome { faults, acknowledged, unsettled: record.unsettled, differences }
}

/// Ten users who click some 400 times a second together, if they are let.
pub(super) fn strolling(run: Run) -> Crowd {
    Crowd { pause: Duration::from_millis(50), ..Crowd::new(run.seed, 10, 20) }
}

/// How many requests this like-api has answered with a 503 or 504.
pub(super) async fn refused(api: &TestService) -> f64 {
    api.metric("http_server_request_duration_seconds_count", "status_code=\"50").await
}

/// A consumer that dies is missed after three seconds, not ten.
pub(super) const SHORT_SESSIONS: &str = "session.timeout.ms=3000\nheartbeat.interval.ms=500\n";
/// A client tries again soon, not in ten seconds.
pub(super) const SOON_AGAIN: &str = "reconnect.backoff.max.ms=500\n";

/// The file must live as long as processes are started with it.
pub(super) fn short_sessions(system: &mut TestSystem) -> NamedTempFile {
    kafka_properties(system, SHORT_SESSIONS)
}

/// Has all clients of Kafka started from now on take these properties, for as long as the file lives.
pub(super) fn kafka_properties(system: &mut TestSystem, properties: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(properties.as_bytes()).expect("a temporary file");
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().expect("a path in UTF-8"));
    file
}

/// Per partition, how far the log is folded.
pub(super) async fn offsets(system: &TestSystem) -> Vec<i64> {
    let sql = "SELECT next_offset FROM kafka_offset ORDER BY partition";
    sqlx::query_scalar(sql).fetch_all(&system.database.pool).await.expect("kafka_offset")
}
