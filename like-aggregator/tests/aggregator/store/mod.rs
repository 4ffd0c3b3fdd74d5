//! A worker's transactions on PostgreSQL. This file has the tables and batches that both kinds of test
//! start from.

mod fencing;
mod writes;

use crate::common::{DEDUP_WINDOW, NOON, RECORD_FOLD, store};
use like_aggregator::apply::transaction::Store;
use like_aggregator::fold::{Batch, Dedup, Record};
use like_events::{EventId, LikeEvent, ProductId, UserId};
use like_testkit::{TestDatabase, eventually};
use uuid::Uuid;

const TOPIC: &str = "t";
const HISTORY: Dedup = Dedup::History(DEDUP_WINDOW);

struct Fixture {
    database: TestDatabase,
}

impl Fixture {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        database.lay_out(TOPIC, 3).await;
        database.execute(RECORD_FOLD).await;
        Self { database }
    }

    fn store(&self, dedup: Dedup) -> Store {
        store(&self.database, TOPIC, dedup)
    }

    async fn likers(&self) -> Vec<String> {
        self.database.column("SELECT product_id || '/' || user_id FROM product_like WHERE liked ORDER BY 1").await
    }

    /// `product=like_count/delta_count`, sorted.
    async fn counts(&self) -> Vec<String> {
        let sql = "SELECT product_id || '=' || like_count || '/' || delta_count FROM product_like_count ORDER BY 1";
        self.database.column(sql).await
    }

    /// `product@hours after noon=likes`, in the order of the key.
    async fn hours(&self) -> Vec<String> {
        let sql =
            "SELECT product_id || '@' || extract(epoch FROM hour - '2026-11-22T12:00:00Z')::int / 3600 || '=' || likes
                   FROM product_like_hour ORDER BY hour, product_id";
        self.database.column(sql).await
    }

    async fn offsets(&self) -> Vec<i64> {
        self.database.column("SELECT next_offset FROM kafka_offset ORDER BY partition").await
    }

    /// Waits until a connection of this database waits for a lock; returns its process id.
    async fn blocked(&self, what: &str) -> i32 {
        eventually(what, async || {
            let sql =
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            self.database.column(sql).await.pop()
        })
        .await
    }

    async fn rows(&self, table: &str) -> i64 {
        self.database.number(&format!("SELECT count(*) FROM {table}")).await
    }
}

#[derive(Clone)]
struct Sent {
    partition: i32,
    offset: i64,
    id: u128,
    time: i64,
    product: &'static str,
    user: Option<&'static str>,
    liked: bool,
}

fn like(offset: i64, id: u128, user: &'static str) -> Sent {
    Sent { partition: 0, offset, id, time: NOON, product: "p", user: Some(user), liked: true }
}

fn batch(believed: i64, events: &[Sent]) -> Batch {
    let mut batch = Batch::default();
    events.iter().for_each(|sent| push(&mut batch, believed, sent));
    batch
}

fn push(batch: &mut Batch, believed: i64, sent: &Sent) {
    let value = LikeEvent {
        event_id: EventId::from(Uuid::from_u128(sent.id + 1)),
        liked: sent.liked,
        product_id: ProductId::parse(sent.product).unwrap(),
        user_id: sent.user.map(|user| UserId::parse(user).unwrap()),
        occurred_at: chrono::DateTime::UNIX_EPOCH,
    }
    .to_json();
    let Sent { partition, offset, time, .. } = *sent;
    let key = Some(sent.product.as_bytes());
    batch.push(&Record { partition, offset, time, key, value: Some(&value) }, believed);
}

fn garbage(batch: &mut Batch, offset: i64, believed: i64, value: &[u8]) {
    let record = Record { partition: 0, offset, time: NOON, key: Some(b"p"), value: Some(value) };
    batch.push(&record, believed);
}
