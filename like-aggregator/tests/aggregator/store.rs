//! The store on a real PostgreSQL: what is committed, what is refused, and that nothing lies in
//! between.

use std::str::FromStr;
use std::time::Duration;

use like_aggregator::apply::error::ApplyError;
use like_aggregator::apply::transaction::{Applied, Store};
use like_aggregator::fold::{Batch, Dedup, Record};
use like_common::database::{DatabaseUrl, SCHEMA};
use like_events::{EventId, LikeEvent, ProductId, UserId};
use like_testkit::{TestDatabase, eventually};
use sqlx::{Connection, Row};
use uuid::Uuid;

const TOPIC: &str = "t";
const WINDOW: Duration = Duration::from_secs(48 * 3600);
const HISTORY: Dedup = Dedup::History(WINDOW);
/// 2026-11-22T12:00:00Z
const NOON: i64 = 1_795_348_800_000;

struct Fixture {
    database: TestDatabase,
}

impl Fixture {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        database.lay_out(TOPIC, 3).await;
        sqlx::query("INSERT INTO fold VALUES (1)").execute(&database.pool).await.unwrap();
        Self { database }
    }

    fn store(&self, dedup: Dedup) -> Store {
        Store::new(&DatabaseUrl::from_str(&self.database.url).unwrap(), SCHEMA, TOPIC, dedup)
    }

    async fn likers(&self) -> Vec<String> {
        let sql = "SELECT product_id || '/' || user_id FROM product_like WHERE liked ORDER BY 1";
        sqlx::query_scalar(sql).fetch_all(&self.database.pool).await.unwrap()
    }

    /// `product=like_count/delta_count`, sorted.
    async fn counts(&self) -> Vec<String> {
        let sql = "SELECT product_id || '=' || like_count || '/' || delta_count FROM product_like_count ORDER BY 1";
        sqlx::query_scalar(sql).fetch_all(&self.database.pool).await.unwrap()
    }

    async fn offsets(&self) -> Vec<i64> {
        let sql = "SELECT next_offset FROM kafka_offset WHERE topic = $1 ORDER BY partition";
        sqlx::query_scalar(sql).bind(TOPIC).fetch_all(&self.database.pool).await.unwrap()
    }

    /// Waits until a connection of this database waits for a lock; its process id.
    async fn blocked(&self, what: &str) -> i32 {
        eventually(what, async || {
            let sql =
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            sqlx::query_scalar(sql).fetch_optional(&self.database.pool).await.unwrap()
        })
        .await
    }

    async fn rows(&self, table: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        sqlx::query_scalar(sql).fetch_one(&self.database.pool).await.unwrap()
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
    for sent in events {
        let value = LikeEvent {
            event_id: EventId::from(Uuid::from_u128(sent.id)),
            liked: sent.liked,
            product_id: ProductId::parse(sent.product).unwrap(),
            user_id: sent.user.map(|user| UserId::parse(user).unwrap()),
            occurred_at: chrono::DateTime::UNIX_EPOCH,
        }
        .to_json();
        let Sent { partition, offset, time, .. } = *sent;
        batch.push(
            &Record { partition, offset, time, key: Some(sent.product.as_bytes()), value: Some(&value) },
            believed,
        );
    }
    batch
}

fn garbage(batch: &mut Batch, offset: i64, believed: i64, value: &[u8]) {
    let record = Record { partition: 0, offset, time: NOON, key: Some(b"p"), value: Some(value) };
    batch.push(&record, believed);
}

#[tokio::test]
async fn a_batch_writes_likers_counts_history_and_offsets_together() {
    let fixture = Fixture::new().await;
    let events = [
        like(0, 1, "u1"),
        like(1, 2, "u2"),
        Sent { liked: false, ..like(2, 3, "u2") },
        Sent { user: None, ..like(3, 4, "") },
        Sent { product: "q", ..like(5, 5, "u1") },
    ];
    let applied = fixture.store(HISTORY).apply(&batch(0, &events)).await.unwrap();
    assert_eq!((applied.applied, applied.unchanged, applied.duplicates), (5, 0, 0));
    assert_eq!(fixture.likers().await, ["p/u1", "q/u1"]);
    assert_eq!(fixture.counts().await, ["p=2/1", "q=1/0"]);
    assert_eq!(fixture.offsets().await, [6, 0, 0]);
    assert_eq!(fixture.rows("event_handled").await, 5);
    let time: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT last_record_time FROM kafka_offset WHERE partition = 0")
            .fetch_one(&fixture.database.pool)
            .await
            .unwrap();
    assert_eq!(time.timestamp_millis(), NOON);
}

#[tokio::test]
async fn a_replayed_batch_is_fenced_and_a_replayed_event_is_counted_once() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    let first = batch(0, &[like(0, 1, "u1"), like(1, 2, "u2")]);
    store.apply(&first).await.unwrap();
    assert!(matches!(store.apply(&first).await, Err(ApplyError::Fenced { partition: 0, believed: 0, found: 2 })));

    // The same events once more, at later offsets: in a batch of their own, twice.
    let again = [like(2, 1, "u1"), like(3, 1, "u1"), Sent { liked: false, ..like(4, 2, "u2") }];
    let applied = store.apply(&batch(2, &again)).await.unwrap();
    assert_eq!((applied.applied, applied.duplicates), (0, 3));
    assert_eq!(fixture.counts().await, ["p=2/0"]);
    assert_eq!(fixture.offsets().await, [5, 0, 0], "a batch of repeats moves the offset too");
}

#[tokio::test]
async fn a_stale_offset_is_fenced_and_writes_nothing() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    let mut stale = batch(0, &[like(0, 7, "u7"), Sent { partition: 1, ..like(0, 8, "u8") }]);
    garbage(&mut stale, 1, 0, b"x");
    assert!(matches!(store.apply(&stale).await, Err(ApplyError::Fenced { .. })));
    assert_eq!(fixture.likers().await, ["p/u1"]);
    assert_eq!(fixture.offsets().await, [1, 0, 0], "nor does its other partition move");
    assert_eq!((fixture.rows("dead_letter").await, fixture.rows("event_handled").await), (0, 1));

    let no_row = batch(0, &[Sent { partition: 9, ..like(0, 9, "u9") }]);
    assert!(matches!(store.apply(&no_row).await, Err(ApplyError::Fenced { partition: 9, found: -1, .. })));
}

#[tokio::test]
async fn a_gap_is_recorded_with_the_offset_behind_it_or_not_at_all() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    store.skip(0, 1, 5).await.unwrap();
    assert_eq!((fixture.offsets().await, fixture.rows("log_gap").await), (vec![5, 0, 0], 1));
    assert_eq!(fixture.rows("kafka_offset WHERE last_record_time IS NOT NULL").await, 1, "what was folded last");

    assert!(matches!(store.skip(0, 1, 9).await, Err(ApplyError::Fenced { partition: 0, believed: 1, found: 5 })));
    sqlx::query("UPDATE fold SET fold_version = 2").execute(&fixture.database.pool).await.unwrap();
    assert!(matches!(store.skip(1, 0, 9).await, Err(ApplyError::FoldVersion { found: 2 })));
    assert_eq!((fixture.offsets().await, fixture.rows("log_gap").await), (vec![5, 0, 0], 1));

    // As after a restored backup: the same gap, and it has grown.
    sqlx::query("UPDATE fold SET fold_version = 1").execute(&fixture.database.pool).await.unwrap();
    sqlx::query("UPDATE kafka_offset SET next_offset = 1 WHERE partition = 0")
        .execute(&fixture.database.pool)
        .await
        .unwrap();
    store.skip(0, 1, 7).await.unwrap();
    assert_eq!(fixture.offsets().await, [7, 0, 0]);
    assert_eq!(fixture.rows("log_gap WHERE (from_offset, to_offset) = (1, 7)").await, 1);
}

#[tokio::test]
async fn of_two_workers_on_one_partition_at_the_same_moment_one_commits() {
    let fixture = Fixture::new().await;
    for round in 0..20i64 {
        let offset = round * 2;
        let (mut left, mut right) = (fixture.store(HISTORY), fixture.store(HISTORY));
        let events = [
            like(offset, 1000 + round as u128, "u1"),
            Sent { liked: round % 2 == 0, ..like(offset + 1, 2000 + round as u128, "u2") },
        ];
        let (one, other) = (batch(offset, &events), batch(offset, &events));
        let (left, right) = tokio::join!(left.apply(&one), right.apply(&other));
        let fenced = |result: &Result<Applied, ApplyError>| matches!(result, Err(ApplyError::Fenced { .. }));
        assert!(left.is_ok() && fenced(&right) || right.is_ok() && fenced(&left), "{left:?} {right:?}");
        assert_eq!(fixture.offsets().await, [offset + 2, 0, 0]);
        assert_eq!(fixture.rows("event_handled").await, offset + 2);
    }
    assert_eq!(fixture.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn a_worker_that_waits_for_the_lock_sees_what_was_written_meanwhile() {
    let fixture = Fixture::new().await;
    let mut other = fixture.database.pool.begin().await.unwrap();
    sqlx::query("UPDATE kafka_offset SET next_offset = 5 WHERE partition = 0").execute(&mut *other).await.unwrap();
    let mut store = fixture.store(HISTORY);
    let waiting = tokio::spawn(async move { store.apply(&batch(0, &[like(0, 1, "u1")])).await });
    fixture.blocked("the worker waits for the row").await;
    other.commit().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(ApplyError::Fenced { believed: 0, found: 5, .. })));
}

#[tokio::test]
async fn another_fold_version_stops_the_worker() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    sqlx::query("UPDATE fold SET fold_version = 2").execute(&fixture.database.pool).await.unwrap();
    let error = store.apply(&batch(1, &[like(1, 2, "u2")])).await.unwrap_err();
    assert!(matches!(error, ApplyError::FoldVersion { found: 2 }) && !error.is_transient());
    assert_eq!(fixture.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn an_id_counts_again_only_when_the_window_is_over() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    let delta = |offset, time| Sent { user: None, time, ..like(offset, 1, "") };
    let window = WINDOW.as_millis() as i64;
    store.apply(&batch(0, &[delta(0, NOON)])).await.unwrap();
    store.apply(&batch(1, &[delta(1, NOON + window)])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=1/1"], "at the very edge it is a repeat");
    store.apply(&batch(2, &[delta(2, NOON + window + 1)])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=2/2"], "one millisecond later it is another event");
    store.apply(&batch(3, &[delta(3, NOON + 5)])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=2/2"], "a clock that steps back finds the later ones");

    // The same edge inside one batch gives the same.
    let other = Fixture::new().await;
    let all = [delta(0, NOON), delta(1, NOON + window), delta(2, NOON + window + 1), delta(3, NOON + 5)];
    let applied = other.store(HISTORY).apply(&batch(0, &all)).await.unwrap();
    assert_eq!((applied.applied, applied.duplicates), (2, 2));
    assert_eq!(other.counts().await, ["p=2/2"]);
}

#[tokio::test]
async fn records_of_any_age_find_a_window() {
    let fixture = Fixture::new().await;
    let times = [0, 253_402_300_799_999, NOON - 400 * 86_400_000, NOON];
    let events: Vec<_> = (0i64..).zip(times).map(|(i, time)| Sent { time, ..like(i, i as u128, "u1") }).collect();
    fixture.store(HISTORY).apply(&batch(0, &events)).await.unwrap();
    assert_eq!(fixture.rows("event_handled").await, 4);
    assert_eq!(fixture.rows("pg_inherits WHERE inhparent = 'event_handled'::regclass").await, 4);
}

#[tokio::test]
async fn a_window_that_vanished_under_the_worker_is_made_again() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    sqlx::query("DROP TABLE event_handled_20261121").execute(&fixture.database.pool).await.unwrap();
    let next = batch(1, &[like(1, 2, "u2")]);
    let error = store.apply(&next).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    store.apply(&next).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=2/0"]);
}

#[tokio::test]
async fn an_id_that_another_worker_wrote_at_this_moment_is_dropped_at_the_second_attempt() {
    let fixture = Fixture::new().await;
    // The window is there: what the worker waits for is the row itself.
    sqlx::query("SELECT make_event_window(to_timestamp($1::bigint / 1000))")
        .bind(NOON)
        .execute(&fixture.database.pool)
        .await
        .unwrap();
    let mut other = fixture.database.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO event_handled VALUES ($1, to_timestamp($2::bigint / 1000))")
        .bind(Uuid::from_u128(1))
        .bind(NOON)
        .execute(&mut *other)
        .await
        .unwrap();
    let store = fixture.store(HISTORY);
    let waiting = tokio::spawn(async move {
        let mut store = store;
        let batch = batch(0, &[like(0, 1, "u1"), like(1, 2, "u2")]);
        (store.apply(&batch).await, store.apply(&batch).await)
    });
    fixture.blocked("the worker waits").await;
    other.commit().await.unwrap();
    let (first, second) = waiting.await.unwrap();
    let error = first.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(second.unwrap().duplicates, 1);
    assert_eq!(fixture.likers().await, ["p/u2"]);
}

#[tokio::test]
async fn dead_letters_are_kept_once_per_position_beside_their_neighbours_counts() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    let mut mixed = batch(0, &[like(0, 1, "u1")]);
    garbage(&mut mixed, 1, 0, b"no json");
    garbage(&mut mixed, 2, 0, &vec![b'x'; 1_000_000]);
    assert_eq!(store.apply(&mixed).await.unwrap().applied, 1);
    assert_eq!(fixture.counts().await, ["p=1/0"]);
    assert_eq!(fixture.offsets().await[0], 3);

    // The same position again, as after a reset of the offsets.
    sqlx::query("UPDATE kafka_offset SET next_offset = 1 WHERE partition = 0")
        .execute(&fixture.database.pool)
        .await
        .unwrap();
    let mut again = Batch::default();
    garbage(&mut again, 1, 1, b"no json");
    store.apply(&again).await.unwrap();
    let rows = sqlx::query("SELECT record_offset, reason, length(payload), key FROM dead_letter ORDER BY 1")
        .fetch_all(&fixture.database.pool)
        .await
        .unwrap();
    let rows: Vec<(i64, String, i32, Vec<u8>)> =
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3))).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows[0].1.starts_with("not_json") && rows[0].3 == b"p");
    assert_eq!((rows[1].0, rows[1].2), (2, 64 * 1024), "cut at 64 KiB");
}

#[tokio::test]
async fn one_batch_moves_several_partitions_each_from_its_own_offset() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    let at = |partition, offset, id, product| Sent { partition, product, ..like(offset, id, "u1") };
    store.apply(&batch(0, &[at(2, 0, 1, "c")])).await.unwrap();
    let mut next = batch(0, &[at(0, 0, 2, "a"), at(0, 1, 3, "a")]);
    let value = |id| {
        let id = Uuid::from_u128(id);
        format!(
            r#"{{"eventId":"{id}","type":"UNLIKED","productId":"c","userId":"u1","occurredAt":"2026-11-22T10:00:00Z"}}"#
        )
    };
    let record = |offset, value| Record { partition: 2, offset, time: NOON, key: Some(b"c"), value };
    next.push(&record(1, Some(value(4).as_bytes())), 1);
    store.apply(&next).await.unwrap();
    assert_eq!(fixture.offsets().await, [2, 0, 2]);
    assert_eq!(fixture.counts().await, ["a=1/0", "c=0/0"]);
}

#[tokio::test]
async fn unlike_before_like_and_like_twice_count_as_users_see_them() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    let unlike = |offset, id, user| Sent { liked: false, ..like(offset, id, user) };
    let applied = store.apply(&batch(0, &[unlike(0, 1, "u1")])).await.unwrap();
    assert_eq!((applied.applied, applied.unchanged), (0, 1));
    assert!(fixture.counts().await.is_empty(), "never below zero, and no row for nothing");
    let applied = store.apply(&batch(1, &[like(1, 2, "u1"), like(2, 3, "u1")])).await.unwrap();
    assert_eq!((applied.applied, applied.unchanged), (1, 1));
    store.apply(&batch(3, &[like(3, 4, "u1")])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=1/0"]);
    store.apply(&batch(4, &[unlike(4, 5, "u1"), unlike(5, 6, "u1")])).await.unwrap();
    assert_eq!((fixture.counts().await, fixture.likers().await), (vec!["p=0/0".to_owned()], vec![]));
    store.apply(&batch(6, &[like(6, 7, "u1")])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn only_a_producer_of_delta_events_can_bring_a_count_below_zero() {
    let fixture = Fixture::new().await;
    let minus = |offset, id| Sent { user: None, liked: false, ..like(offset, id, "") };
    fixture.store(HISTORY).apply(&batch(0, &[minus(0, 1), minus(1, 2), like(2, 3, "u1")])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=-1/-2"], "nothing is clamped in the database");
}

#[tokio::test]
async fn without_history_a_repeat_is_dropped_inside_a_batch_and_not_across() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(Dedup::Batch);
    let delta = |offset, id| Sent { user: None, ..like(offset, id, "") };
    let applied = store.apply(&batch(0, &[delta(0, 1), delta(1, 1), delta(2, 2)])).await.unwrap();
    assert_eq!((applied.applied, applied.duplicates), (2, 1));
    store.apply(&batch(3, &[delta(3, 1)])).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=3/3"], "this is the price of DEDUP=batch");
    assert_eq!(fixture.rows("event_handled").await, 0);
}

#[tokio::test]
async fn a_failed_batch_leaves_nothing_and_succeeds_on_a_new_connection() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    let next = batch(0, &[like(0, 1, "u1")]);
    let mut other = fixture.database.pool.acquire().await.unwrap();
    let mut lock = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE product_like IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let waiting = tokio::spawn(async move { (store.apply(&next).await, store, next) });
    let blocked = fixture.blocked("the batch waits for the table").await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(blocked).execute(&fixture.database.pool).await.unwrap();
    let (result, mut store, next) = waiting.await.unwrap();
    assert!(result.unwrap_err().is_transient(), "57P01 is PostgreSQL going away");
    lock.rollback().await.unwrap();
    assert_eq!((fixture.rows("event_handled").await, fixture.offsets().await[0]), (0, 0));
    store.apply(&next).await.unwrap();
    assert_eq!(fixture.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn a_like_that_somebody_else_changed_meanwhile_moves_no_count() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    let unlike = batch(1, &[Sent { liked: false, ..like(1, 2, "u1") }]);
    let mut other = fixture.database.pool.begin().await.unwrap();
    sqlx::query("UPDATE product_like SET liked = false").execute(&mut *other).await.unwrap();
    sqlx::query("UPDATE product_like_count SET like_count = 0").execute(&mut *other).await.unwrap();
    let waiting = tokio::spawn(async move { (store.apply(&unlike).await, store.apply(&unlike).await) });
    fixture.blocked("the update waits for the row").await;
    other.commit().await.unwrap();
    let (first, second) = waiting.await.unwrap();
    assert!(matches!(first, Err(ApplyError::Raced)), "{first:?}");
    assert_eq!(second.unwrap().unchanged, 1);
    assert_eq!(fixture.counts().await, ["p=0/0"]);
}

#[tokio::test]
async fn counts_are_updated_in_place_without_touching_an_index() {
    let fixture = Fixture::new().await;
    let mut store = fixture.store(HISTORY);
    for round in 0..50i64 {
        let user: &'static str = Box::leak(format!("u{round}").into_boxed_str());
        store.apply(&batch(round, &[like(round, round as u128, user)])).await.unwrap();
    }
    drop(store);
    eventually("50 counts, 49 of them updates, all HOT", async || {
        let sql = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'product_like_count'";
        let row = sqlx::query(sql).fetch_one(&fixture.database.pool).await.unwrap();
        let (updates, hot): (i64, i64) = (row.get(0), row.get(1));
        (updates == 49 && hot == 49).then_some(())
    })
    .await;
}
