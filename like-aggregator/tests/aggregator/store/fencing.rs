//! What a worker commits beside other workers: a batch that doesn't start at the stored offsets, or that
//! another one has overtaken, leaves nothing.

use super::{Fixture, HISTORY, Sent, batch, garbage, like};
use crate::common::{DEDUP_WINDOW, NOON};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::apply::transaction::Applied;
use like_aggregator::fold::Dedup;
use uuid::Uuid;

#[tokio::test]
async fn replayed_batch_is_fenced() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    let first = batch(0, &[like(0, 1, "u1"), like(1, 2, "u2")]);
    store.apply(&first).await.unwrap();
    assert!(matches!(store.apply(&first).await, Err(ApplyError::Fenced { partition: 0, believed: 0, found: 2 })));

    // The same events once more, at later offsets: in a batch of their own, twice.
    let again = [like(2, 1, "u1"), like(3, 1, "u1"), Sent { liked: false, ..like(4, 2, "u2") }];
    let applied = store.apply(&batch(2, &again)).await.unwrap();
    assert_eq!((applied.applied, applied.duplicates), (0, 3));
    assert_eq!(db.counts().await, ["p=2/0"]);
    assert_eq!(db.offsets().await, [5, 0, 0], "a batch of repeats moves the offset too");
}

#[tokio::test]
async fn stale_offset_writes_nothing() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    let mut stale = batch(0, &[like(0, 7, "u7"), Sent { partition: 1, ..like(0, 8, "u8") }]);
    garbage(&mut stale, 1, 0, b"x");
    assert!(matches!(store.apply(&stale).await, Err(ApplyError::Fenced { .. })));
    assert_eq!(db.likers().await, ["p/u1"]);
    assert_eq!(db.offsets().await, [1, 0, 0], "the other partition doesn't move");
    assert_eq!((db.rows("dead_letter").await, db.rows("event_handled").await), (0, 1));

    let no_row = batch(0, &[Sent { partition: 9, ..like(0, 9, "u9") }]);
    assert!(matches!(store.apply(&no_row).await, Err(ApplyError::Fenced { partition: 9, found: -1, .. })));
}

#[tokio::test]
async fn gap_moves_the_offset() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    store.skip(0, 1, 5).await.unwrap();
    assert_eq!((db.offsets().await, db.rows("log_gap").await), (vec![5, 0, 0], 1));
    assert_eq!(db.rows("kafka_offset WHERE last_record_time IS NOT NULL").await, 1, "last_record_time stays");

    assert!(matches!(store.skip(0, 1, 9).await, Err(ApplyError::Fenced { partition: 0, believed: 1, found: 5 })));
    db.database.execute("UPDATE fold SET fold_version = fold_version + 1").await;
    assert!(matches!(store.skip(1, 0, 9).await, Err(ApplyError::FoldVersion { found: 3 })));
    assert_eq!((db.offsets().await, db.rows("log_gap").await), (vec![5, 0, 0], 1));

    // As after a restored backup: the same gap, and it has grown.
    db.database.execute("UPDATE fold SET fold_version = fold_version - 1").await;
    db.database.execute("UPDATE kafka_offset SET next_offset = 1 WHERE partition = 0").await;
    store.skip(0, 1, 7).await.unwrap();
    assert_eq!(db.offsets().await, [7, 0, 0]);
    assert_eq!(db.rows("log_gap WHERE (from_offset, to_offset) = (1, 7)").await, 1);
}

#[tokio::test]
async fn one_of_two_workers_commits() {
    let db = Fixture::new().await;
    for round in 0..20i64 {
        let offset = round * 2;
        let (mut left, mut right) = (db.store(HISTORY), db.store(HISTORY));
        let events = [
            like(offset, 1000 + round as u128, "u1"),
            Sent { liked: round % 2 == 0, ..like(offset + 1, 2000 + round as u128, "u2") },
        ];
        let (one, other) = (batch(offset, &events), batch(offset, &events));
        let (left, right) = tokio::join!(left.apply(&one), right.apply(&other));
        let fenced = |result: &Result<Applied, ApplyError>| matches!(result, Err(ApplyError::Fenced { .. }));
        assert!(left.is_ok() && fenced(&right) || right.is_ok() && fenced(&left), "{left:?} {right:?}");
        assert_eq!(db.offsets().await, [offset + 2, 0, 0]);
        assert_eq!(db.rows("event_handled").await, offset + 2);
    }
    assert_eq!(db.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn waiting_worker_reads_the_new_offset() {
    let db = Fixture::new().await;
    let other = db.database.lock("UPDATE kafka_offset SET next_offset = 5 WHERE partition = 0").await;
    let mut store = db.store(HISTORY);
    let waiting = tokio::spawn(async move { store.apply(&batch(0, &[like(0, 1, "u1")])).await });
    db.blocked("the worker waits for the row").await;
    other.commit().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(ApplyError::Fenced { believed: 0, found: 5, .. })));
}

#[tokio::test]
async fn other_fold_version_stops_the_worker() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    db.database.execute("UPDATE fold SET fold_version = fold_version + 1").await;
    let error = store.apply(&batch(1, &[like(1, 2, "u2")])).await.unwrap_err();
    assert!(matches!(error, ApplyError::FoldVersion { found: 3 }) && !error.is_transient());
    assert_eq!(db.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn other_fold_settings_stop_the_worker() {
    let db = Fixture::new().await;
    for other in [Dedup::Batch, Dedup::History(DEDUP_WINDOW * 2)] {
        let error = db.store(other).apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap_err();
        assert!(matches!(error, ApplyError::FoldRules { found: Some(_), .. }) && !error.is_transient(), "{error}");
    }
    db.database.execute("UPDATE fold SET (dedup, dedup_window) = (NULL, NULL)").await;
    let error = db.store(HISTORY).apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap_err();
    assert!(matches!(error, ApplyError::FoldRules { found: None, .. }), "{error}");
    assert_eq!((db.offsets().await[0], db.rows("product_like").await), (0, 0));
}

#[tokio::test]
async fn id_of_another_worker_is_a_repeat() {
    let db = Fixture::new().await;
    // The window exists, so the worker waits for the row itself.
    db.database.execute(format!("SELECT make_event_window(to_timestamp({NOON} / 1000))")).await;
    let id = Uuid::from_u128(2);
    let insert = format!("INSERT INTO event_handled VALUES ('{id}', to_timestamp({NOON}::bigint / 1000))");
    let other = db.database.lock(insert).await;
    let store = db.store(HISTORY);
    let waiting = tokio::spawn(async move {
        let mut store = store;
        let batch = batch(0, &[like(0, 1, "u1"), like(1, 2, "u2")]);
        (store.apply(&batch).await, store.apply(&batch).await)
    });
    db.blocked("the worker waits").await;
    other.commit().await.unwrap();
    let (first, second) = waiting.await.unwrap();
    let error = first.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(second.unwrap().duplicates, 1);
    assert_eq!(db.likers().await, ["p/u2"]);
}

#[tokio::test]
async fn failed_batch_leaves_nothing() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    let next = batch(0, &[like(0, 1, "u1")]);
    let lock = db.database.lock("LOCK TABLE product_like IN ACCESS EXCLUSIVE MODE").await;
    let waiting = tokio::spawn(async move { (store.apply(&next).await, store, next) });
    let blocked = db.blocked("the batch waits for the table").await;
    db.database.execute(format!("SELECT pg_terminate_backend({blocked})")).await;
    let (result, mut store, next) = waiting.await.unwrap();
    assert!(result.unwrap_err().is_transient(), "57P01 is PostgreSQL going away");
    lock.rollback().await.unwrap();
    assert_eq!((db.rows("event_handled").await, db.offsets().await[0]), (0, 0));
    store.apply(&next).await.unwrap();
    assert_eq!(db.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn like_changed_meanwhile_is_retried() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    let unlike = batch(1, &[Sent { liked: false, ..like(1, 2, "u1") }]);
    let change = "UPDATE product_like SET liked = false; UPDATE product_like_count SET like_count = 0";
    let other = db.database.lock(change).await;
    let waiting = tokio::spawn(async move { (store.apply(&unlike).await, store.apply(&unlike).await) });
    db.blocked("the update waits for the row").await;
    other.commit().await.unwrap();
    let (first, second) = waiting.await.unwrap();
    assert!(matches!(first, Err(ApplyError::Raced)), "{first:?}");
    assert_eq!(second.unwrap().unchanged, 1);
    assert_eq!(db.counts().await, ["p=0/0"]);
}
