//! What the scenarios share: both services with clicking users, and the comparison at the end.

use std::io::Write;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use like_testkit::{Clicking, Crowd, Record, TestService, TestSystem, eventually};
use tempfile::NamedTempFile;

use crate::{Outcome, Run, deltas};

/// Both services on a system of their own, under load.
pub(super) struct Scene {
    pub(super) system: TestSystem,
    pub(super) api: TestService,
    pub(super) crowd: Clicking,
    /// The acknowledged events of other producers.
    pub(super) others: Record,
    /// The properties file; processes read it at their start.
    pub(super) _settings: NamedTempFile,
}

impl Scene {
    /// Starts a system with short consumer sessions, one like-api, and a clicking crowd.
    pub(super) async fn start(run: Run, partitions: i32, users: usize, clicks: usize) -> Self {
        let mut system = TestSystem::new().await;
        let settings = short_sessions(&mut system);
        system.setup(&["--partitions", &partitions.to_string()]).await;
        let api = system.api(&[]).await;
        let crowd = Crowd::new(run.seed, users, clicks).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Starts a slower crowd on this system, for faults that last long. `properties` configure the Kafka clients.
    pub(super) async fn on(run: Run, mut system: TestSystem, properties: &str) -> Self {
        let settings = kafka_properties(&mut system, properties);
        system.setup(&["--partitions", "8"]).await;
        let api = system.api(&[]).await;
        let crowd = strolling(run).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// The same as [`Scene::start`] on an existing topic.
    pub(super) async fn on_topic(mut system: TestSystem, run: Run, users: usize, clicks: usize) -> Self {
        let settings = short_sessions(&mut system);
        let api = system.api(&[]).await;
        let crowd = Crowd::new(run.seed, users, clicks).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Waits until `more` likes are acknowledged.
    pub(super) async fn acknowledges(&self, more: usize) {
        let before = self.crowd.acknowledged();
        eventually("likes are acknowledged", async || (self.crowd.acknowledged() >= before + more).then_some(())).await;
    }

    /// Waits until an offset advances.
    pub(super) async fn counts(&self) {
        let folded = async || self.system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await;
        let before = folded().await;
        eventually("more is counted", async || (folded().await > before).then_some(())).await;
    }

    /// Publishes delta events to these brokers.
    pub(super) async fn add_deltas(&mut self, kafka: &str, count: usize) {
        let more = deltas::publish(kafka, &self.system.topic, "delta-only", count, 1).await;
        self.others = mem::take(&mut self.others).and(more);
    }

    /// Publishes `each` delta events for each of these products.
    pub(super) async fn deltas(&mut self, products: Range<usize>, each: usize) {
        let events: Vec<_> = products.flat_map(|n| deltas::events(&format!("delta-{n}"), each)).collect();
        deltas::send(&like_testkit::kafka(), &self.system.topic, &events).await;
        self.others = mem::take(&mut self.others).and(deltas::record(&events));
    }

    /// Ends the clicking and compares. An aggregator must be running.
    pub(super) async fn outcome(self, faults: usize) -> Outcome {
        let record = self.crowd.finish().await.and(self.others);
        outcome(&record, &self.system, &self.api, faults).await
    }
}

/// Compares `record` with the counts.
pub(super) async fn outcome(record: &Record, system: &TestSystem, api: &TestService, faults: usize) -> Outcome {
    let differences = record.compare(system, &api.client()).await;
    let acknowledged = record.event_ids.len();
    Outcome { faults, acknowledged, unsettled: record.unsettled, differences }
}

/// Ten users with some 400 clicks a second together.
pub(super) fn strolling(run: Run) -> Crowd {
    Crowd { pause: Duration::from_millis(50), ..Crowd::new(run.seed, 10, 20) }
}

/// How many requests this like-api has answered with 503 or 504.
pub(super) async fn refused(api: &TestService) -> f64 {
    api.metric("http_server_request_duration_seconds_count", "status_code=\"50").await
}

/// A dead consumer loses its membership after 3 s instead of 10 s.
pub(super) const SHORT_SESSIONS: &str = "session.timeout.ms=3000\nheartbeat.interval.ms=500\n";
/// A client reconnects within 0.5 s instead of 10 s.
pub(super) const SOON_AGAIN: &str = "reconnect.backoff.max.ms=500\n";

/// The file must live as long as processes are started with it.
pub(super) fn short_sessions(system: &mut TestSystem) -> NamedTempFile {
    kafka_properties(system, SHORT_SESSIONS)
}

/// Gives these properties to all Kafka clients that start while the file exists.
pub(super) fn kafka_properties(system: &mut TestSystem, properties: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(properties.as_bytes()).expect("a temporary file");
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().expect("a path in UTF-8"));
    file
}

/// The stored offset of each partition.
pub(super) async fn offsets(system: &TestSystem) -> Vec<i64> {
    let sql = "SELECT next_offset FROM kafka_offset ORDER BY partition";
    sqlx::query_scalar(sql).fetch_all(&system.database.pool).await.expect("kafka_offset")
}
