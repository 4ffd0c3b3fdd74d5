//! Shared by the scenarios: both services under load, and the comparison at the end.

use std::io::Write;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use like_testkit::{Clicking, Crowd, Record, TestService, TestSystem, eventually};
use tempfile::NamedTempFile;

use crate::{Outcome, Run, deltas};

/// Both services under load from a crowd of users.
pub(super) struct Scene {
    pub(super) system: TestSystem,
    pub(super) api: TestService,
    pub(super) crowd: Clicking,
    /// Acknowledged events of other producers.
    pub(super) others: Record,
    /// The properties file of Kafka clients.
    pub(super) _settings: NamedTempFile,
}

impl Scene {
    /// A new system with short consumer sessions, one like-api and a crowd without pauses.
    pub(super) async fn start(run: Run, partitions: i32, users: usize, clicks: usize) -> Self {
        let system = TestSystem::set_up(partitions).await;
        Self::on_topic(system, run, users, clicks).await
    }

    /// The same on a system that is set up.
    pub(super) async fn on_topic(system: TestSystem, run: Run, users: usize, clicks: usize) -> Self {
        Self::with(system, SHORT_SESSIONS, &Crowd::new(run.seed, users, clicks)).await
    }

    /// On `system`, with a slow crowd and these properties of Kafka clients, for long faults.
    pub(super) async fn on(run: Run, system: TestSystem, properties: &str) -> Self {
        system.setup(&["--partitions", "8"]).await;
        Self::with(system, properties, &slow_crowd(run)).await
    }

    async fn with(mut system: TestSystem, properties: &str, crowd: &Crowd) -> Self {
        let settings = kafka_properties(&mut system, properties);
        let api = system.api(&[]).await;
        let crowd = crowd.start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Waits until `more` likes are acknowledged.
    pub(super) async fn acknowledges(&self, more: usize) {
        let before = self.crowd.acknowledged();
        eventually("likes are acknowledged", async || (self.crowd.acknowledged() >= before + more).then_some(())).await;
    }

    /// Waits until a stored offset has advanced.
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

    /// Publishes `each` delta events for each of these products and waits for their acknowledgements.
    pub(super) async fn deltas(&mut self, products: Range<usize>, each: usize) {
        let events: Vec<_> = products.flat_map(|n| deltas::events(&format!("delta-{n}"), each)).collect();
        deltas::send(&like_testkit::kafka(), &self.system.topic, &events).await;
        self.others = mem::take(&mut self.others).and(deltas::record(&events));
    }

    /// Stops the crowd and compares; an aggregator must be running.
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

/// Ten users with at most 400 requests per second in total.
pub(super) fn slow_crowd(run: Run) -> Crowd {
    Crowd { pause: Duration::from_millis(50), ..Crowd::new(run.seed, 10, 20) }
}

/// The number of 503 and 504 responses of this like-api.
pub(super) async fn refused(api: &TestService) -> f64 {
    api.metric("http_server_request_duration_seconds_count", "status_code=\"50").await
}

/// A dead consumer loses its partitions after 3 s instead of 10 s.
pub(super) const SHORT_SESSIONS: &str = "session.timeout.ms=3000\nheartbeat.interval.ms=500\n";
/// Clients reconnect after at most 0.5 s instead of 10 s.
pub(super) const SOON_AGAIN: &str = "reconnect.backoff.max.ms=500\n";

/// Sets properties of the Kafka clients of processes that start while the returned file exists.
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
