//! A swap of schemas in the middle of a batch: the worker writes only into tables whose offsets are those
//! that it expects.

use std::str::FromStr;

use crate::common::{DEDUP_WINDOW, LOCK_OFFSETS, NOON, store};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::apply::transaction::Applied;
use like_aggregator::fold::{Batch, Dedup, FOLD_VERSION, Record};
use like_common::database::DatabaseUrl;
use like_testkit::{TestDatabase, event};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;

const RENAME: &str = "ALTER SCHEMA likes RENAME TO likes_old; ALTER SCHEMA likes_rebuild RENAME TO likes";

/// Live tables at offset 10 and shadow tables at offset `shadow`; each record was a like.
async fn set_up(shadow: i64) -> TestDatabase {
    let database = TestDatabase::create().await;
    database.execute("CREATE SCHEMA likes_rebuild").await;
    let url = DatabaseUrl::from_str(&database.url).unwrap();
    let options = url.connect_options("likes_rebuild", "test");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    like_common::migrations::migrator().run(&mut connection).await.unwrap();
    for (schema, offset) in [("likes", 10), ("likes_rebuild", shadow)] {
        let fill = format!(
            "INSERT INTO {schema}.fold VALUES ({FOLD_VERSION}, true, 'history', '48h');
             INSERT INTO {schema}.topic_layout VALUES (1, 't', 1);
             INSERT INTO {schema}.kafka_offset VALUES ('t', 0, {offset}, now(), now());
             INSERT INTO {schema}.product_like_count VALUES ('p', {offset}, {offset}, now())"
        );
        sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut connection).await.unwrap();
    }
    // A replay has made the windows it needed; the worker makes its own before its transaction.
    sqlx::query("SELECT make_event_window('2026-11-22T12:00:00Z')").execute(&mut connection).await.unwrap();
    database
}

/// A worker that is about to apply two likes from offset 10 on.
fn worker(database: &TestDatabase) -> JoinHandle<Result<Applied, ApplyError>> {
    let mut store = store(database, "t", Dedup::History(DEDUP_WINDOW));
    let mut batch = Batch::default();
    for offset in 10..12 {
        let value = event("p", None, true).to_json();
        let record = Record { partition: 0, offset, time: NOON, key: Some(b"p"), value: Some(&value) };
        batch.push(&record, 10);
    }
    tokio::spawn(async move { store.apply(&batch).await })
}

/// Count and offset of a schema.
async fn stored(database: &TestDatabase, schema: &str) -> (i64, i64) {
    let sql = format!("SELECT like_count, next_offset FROM {schema}.product_like_count, {schema}.kafka_offset");
    database.rows(&sql).await[0]
}

/// Swaps while the worker waits for what `lock` locks; returns the outcome of its batch.
async fn swapped_under(database: &TestDatabase, lock: &'static str) -> Result<Applied, ApplyError> {
    let mut swap = database.lock(lock).await;
    let worker = worker(database);
    database.waiting_for_lock("like-aggregator", 1).await;
    sqlx::raw_sql(RENAME).execute(&mut *swap).await.unwrap();
    swap.commit().await.unwrap();
    worker.await.unwrap()
}

#[tokio::test]
async fn waiting_worker_is_fenced_by_new_tables() {
    for (lock, found) in [
        (LOCK_OFFSETS, 15),
        // As a swap by row locks only would be: the worker passes its check on the old row.
        ("SELECT FROM likes.kafka_offset FOR UPDATE", -1),
    ] {
        let database = set_up(15).await;
        let applied = swapped_under(&database, lock).await;
        let fenced = matches!(applied, Err(ApplyError::Fenced { believed: 10, found: at, .. }) if at == found);
        assert!(fenced, "{lock}: {applied:?}");
        assert_eq!(stored(&database, "likes").await, (15, 15));
        assert_eq!(stored(&database, "likes_old").await, (10, 10));
    }
}

#[tokio::test]
async fn worker_continues_in_equal_new_tables() {
    let database = set_up(10).await;
    let applied = swapped_under(&database, LOCK_OFFSETS).await;
    assert!(applied.is_ok(), "{applied:?}");
    assert_eq!(stored(&database, "likes").await, (12, 12));
    assert_eq!(stored(&database, "likes_old").await, (10, 10));
}
