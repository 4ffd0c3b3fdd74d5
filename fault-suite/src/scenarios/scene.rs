//! More of what scenarios have in common.

use like_testkit::{Crowd, Record, TestSystem, eventually};

use super::{Scene, short_sessions};
use crate::{Run, deltas};

impl Scene {
    /// The same as [`Scene::start`] on a topic that is there already.
    pub(super) async fn on(mut system: TestSystem, run: Run, users: usize, clicks: usize) -> Self {
        let settings = short_sessions(&mut system);
        let api = system.api(&[]).await;
        let crowd = Crowd::new(run.seed, users, clicks).start(&[api.client()]);
        Self { system, api, crowd, others: Record::default(), _settings: settings }
    }

    /// Delta events, published before this answers.
    pub(super) async fn deltas(&mut self, product: &str, count: usize) {
        let more = deltas::publish(&like_testkit::kafka(), &self.system.topic, product, count, 1).await;
        self.others = std::mem::take(&mut self.others).and(more);
    }

    /// Waits until the crowd has had so many more acknowledgements.
    pub(super) async fn more_clicks(&self, more: usize) {
        let until = self.crowd.acknowledged() + more;
        eventually("users click", async || (self.crowd.acknowledged() >= until).then_some(())).await;
    }
}

/// Per partition, how far the log is folded.
pub(super) async fn offsets(system: &TestSystem) -> Vec<i64> {
    let sql = "SELECT next_offset FROM kafka_offset ORDER BY partition";
    sqlx::query_scalar(sql).fetch_all(&system.database.pool).await.expect("kafka_offset")
}
