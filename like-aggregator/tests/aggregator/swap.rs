//! A worker meets a swap of schemas in the middle of its batch: whatever it waits for, it writes
//! nothing into tables that stand elsewhere than it believes.

use std::str::FromStr;
use std::time::Duration;

use like_aggregator::apply::error::ApplyError;
use like_aggregator::apply::transaction::{Applied, Store};
use like_aggregator::fold::{Batch, Dedup, FOLD_VERSION, Record};
use like_common::database::{DatabaseUrl, SCHEMA};
use like_testkit::{TestDatabase, event, eventually};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;

/// 2026-11-22T12:00:00Z
const NOON: i64 = 1_795_348_800_000;
const RENAME: &str = "ALTER SCHEMA likes RENAME TO likes_old; ALTER SCHEMA likes_rebuild RENAME TO likes";

/// Live tables at offset 10, and fresh ones at `fresh`, where each record was a like.
async fn set_up(fresh: i64) -> TestDatabase {
    let database = TestDatabase::create().await;
    sqlx::query("CREATE SCHEMA likes_rebuild").execute(&database.pool).await.unwrap();
    let url = DatabaseUrl::from_str(&database.url).unwrap();
    let options = url.connect_options("likes_rebuild", "test");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    like_common::migrations::migrator().run(&mut connection).await.unwrap();
    for (schema, offset) in [("likes", 10), ("likes_rebuild", fresh)] {
        let fill = format!(
            "INSERT INTO {schema}.fold VALUES ({FOLD_VERSION});
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
    let url = DatabaseUrl::from_str(&database.url).unwrap();
    let mut store = Store::new(&url, SCHEMA, "t", Dedup::History(Duration::from_hours(48)));
    let mut batch = Batch::default();
    for offset in 10..12 {
        let value = event("p", None, true).to_json();
        let record = Record { partition: 0, offset, time: NOON, key: Some(b"p"), value: Some(&value) };
        batch.push(&record, 10);
    }
    tokio::spawn(async move { store.apply(&batch).await })
}

async fn blocked(database: &TestDatabase) {
    eventually("the worker waits", async || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i32>(sql).fetch_optional(&database.pool).await.unwrap()
    })
    .await;
}

/// Count and offset, which say the same.
async fn stands(database: &TestDatabase, schema: &str) -> (i64, i64) {
    let sql = format!("SELECT like_count, next_offset FROM {schema}.product_like_count, {schema}.kafka_offset");
    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&database.pool).await.unwrap()
}

/// Swaps while the worker waits for what `lock` locks; answers what became of its batch.
async fn swapped_under(database: &TestDatabase, lock: &'static str) -> Result<Applied, ApplyError> {
    let mut swap = database.pool.begin().await.unwrap();
    sqlx::query(lock).execute(&mut *swap).await.unwrap();
    let worker = worker(database);
    blocked(database).await;
    sqlx::raw_sql(RENAME).execute(&mut *swap).await.unwrap();
    swap.commit().await.unwrap();
    worker.await.unwrap()
}

#[tokio::test]
async fn a_worker_that_waits_for_the_table_is_fenced_by_the_new_one() {
    let database = set_up(15).await;
    let applied = swapped_under(&database, "LOCK TABLE likes.kafka_offset IN EXCLUSIVE MODE").await;
    assert!(matches!(applied, Err(ApplyError::Fenced { believed: 10, found: 15, .. })), "{applied:?}");
    assert_eq!(stands(&database, "likes").await, (15, 15));
    assert_eq!(stands(&database, "likes_old").await, (10, 10));
}

/// As a swap by row locks only would be: the worker passes its check on the old row.
#[tokio::test]
async fn a_worker_that_waits_for_its_row_writes_nothing_into_the_new_tables() {
    let database = set_up(15).await;
    let applied = swapped_under(&database, "SELECT FROM likes.kafka_offset FOR UPDATE").await;
    assert!(matches!(applied, Err(ApplyError::Fenced { believed: 10, found: -1, .. })), "{applied:?}");
    assert_eq!(stands(&database, "likes").await, (15, 15));
    assert_eq!(stands(&database, "likes_old").await, (10, 10));
}

#[tokio::test]
async fn a_worker_that_stands_where_the_new_tables_stand_goes_on_in_them() {
    let database = set_up(10).await;
    let applied = swapped_under(&database, "LOCK TABLE likes.kafka_offset IN EXCLUSIVE MODE").await;
    assert!(applied.is_ok(), "{applied:?}");
    assert_eq!(stands(&database, "likes").await, (12, 12));
    assert_eq!(stands(&database, "likes_old").await, (10, 10));
}
