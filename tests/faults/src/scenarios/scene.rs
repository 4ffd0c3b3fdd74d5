//! Shared by the scenarios: both services with clicking users, and the comparison at the end.

use std::mem;
use std::ops::Range;
use std::time::Duration;

use like_testkit::{Clicking, Crowd, Record, TestService, TestSystem, until};
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
        Self::on_topic(TestSystem::set_up(partitions).await, run, users, clicks).await
    }

    /// The same as [`Scene::start`] on an existing topic.
    pub(super) async fn on_topic(system: TestSystem, run: Run, users: usize, clicks: usize) -> Self {
        Self::of(system, SHORT_SESSIONS, &Crowd::new(run.seed, users, clicks)).await
    }

    /// Starts a slower crowd on this system, for faults that last long. `properties` configure the Kafka clients.
    pub(super) async fn on(run: Run, system: TestSystem, properties: &str) -> Self {
        system.setup(&["--partitions", "8"]).await;
        Self::of(system, properties, &strolling(run)).await
    }

    async fn of(mut system: TestSystem, properties: &str, crowd: &Crowd) -> Self {
        let settings = system.kafka_properties(properties);
        let api = system.api(&[]).await;
        let crowd = crowd.start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Waits until `more` likes are acknowledged.
    pub(super) async fn acknowledges(&self, more: usize) {
        let before = self.crowd.acknowledged();
        until("likes are acknowledged", async || self.crowd.acknowledged() >= before + more).await;
    }

    /// Waits until an offset advances.
    pub(super) async fn counts(&self) {
        let folded = async || offsets(&self.system).await.iter().sum::<i64>();
        let before = folded().await;
        until("an offset advances", async || folded().await > before).await;
    }

    /// Waits until the offset of each partition that has records advances.
    pub(super) async fn counts_everywhere(&self) {
        let before = offsets(&self.system).await;
        until("each partition's offset advances", async || {
            let now = offsets(&self.system).await;
            before.iter().zip(now).all(|(before, now)| *before == 0 || now > *before)
        })
        .await;
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

/// The stored offset of each partition.
pub(super) async fn offsets(system: &TestSystem) -> Vec<i64> {
    system.database.column("SELECT next_offset FROM kafka_offset ORDER BY partition").await
}
