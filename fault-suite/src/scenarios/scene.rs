//! More of what scenarios have in common.

use std::mem;
use std::ops::Range;

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

    /// So many delta events for each of these products, published before this answers.
    pub(super) async fn deltas(&mut self, products: Range<usize>, each: usize) {
        let events: Vec<_> = products.flat_map(|n| deltas::events(&format!("delta-{n}"), each)).collect();
        deltas::send(&like_testkit::kafka(), &self.system.topic, &events).await;
        self.others = mem::take(&mut self.others).and(deltas::record(&events));
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
