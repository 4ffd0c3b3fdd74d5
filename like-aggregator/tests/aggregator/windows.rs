//! Maintenance of the tables: windows of `event_handled` exist before they are needed and are dropped when
//! no record can refer to them, old dead letters are deleted, old hours are summed, and no batch waits long for it.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::common::{Counting, DEDUP_WINDOW, NEVER, NOON, QUICK, publish, set_up, store, users};
use like_aggregator::fold::{Batch, Dedup, FOLD_VERSION, Record};
use like_aggregator::metrics::Metrics;
use like_aggregator::schema::maintenance::Upkeep;
use like_aggregator::timing::Timing;
use like_common::database::{DatabaseUrl, SCHEMA, sqlstate};
use like_testkit::{TestDatabase, TestSystem, event, until};
use prometheus::Registry;
use rdkafka::ClientConfig;
use tokio::task::JoinHandle;

/// The number of windows of `event_handled`.
async fn windows(database: &TestDatabase) -> i64 {
    database.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'event_handled'::regclass").await
}

async fn make_window(database: &TestDatabase, days_ago: i32) {
    database.execute(format!("SELECT make_event_window(now() - make_interval(days => {days_ago}))")).await;
}

/// Drops a window, if the logs of the partitions 0, 1, … of topic t end at these offsets.
async fn drop_window(database: &TestDatabase, ends: &[i64]) -> Result<Option<String>, sqlx::Error> {
    let partitions: Vec<i32> = (0..ends.len() as i32).collect();
    let sql = "SELECT drop_event_window('48 hours', array_fill('t'::text, ARRAY[cardinality($1)]), $1, $2)";
    sqlx::query_scalar(sql).bind(partitions).bind(ends).fetch_one(&database.pool).await
}

/// Maintenance alone, without an aggregator. A round ends with the deletion of dead letters.
fn upkeep(system: &TestSystem) -> JoinHandle<()> {
    let url = DatabaseUrl::from_str(&system.database.url).unwrap();
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", like_testkit::kafka());
    let metrics = Metrics::new(&Registry::new());
    let upkeep = Upkeep::new(&url, SCHEMA, client, Dedup::Batch, DEDUP_WINDOW, metrics);
    tokio::spawn(upkeep.run(QUICK.upkeep))
}

/// Two partitions, each folded up to 5, with last records of this age.
async fn folded(days_ago: [Option<i32>; 2]) -> TestDatabase {
    let database = TestDatabase::create().await;
    database.lay_out("t", 2).await;
    for (partition, days) in days_ago.into_iter().enumerate() {
        let days = days.map_or("NULL".to_owned(), |days| days.to_string());
        let sql = format!(
            "UPDATE kafka_offset SET next_offset = 5, last_record_time = now() - make_interval(days => {days})
             WHERE partition = {partition}"
        );
        database.execute(sql).await;
    }
    database
}

#[tokio::test]
async fn new_window_has_no_autovacuum() {
    let database = TestDatabase::create().await;
    let parameters = "SELECT array_to_string(reloptions, ',') FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                      WHERE inhparent = 'event_handled'::regclass ORDER BY relname";
    // As an earlier release made it, and one that an operator has set: both are there before this release's first window.
    database.execute("SELECT make_event_window('2026-11-01'), make_event_window('2026-11-05')").await;
    database.execute("ALTER TABLE event_handled_20261105 SET (autovacuum_vacuum_insert_threshold = 7)").await;
    database.execute("SELECT make_event_window('2026-11-09', '48h')").await;
    let off = "autovacuum_enabled=off";
    assert_eq!(database.column::<String>(parameters).await, [off, "autovacuum_vacuum_insert_threshold=7", off]);
}

#[tokio::test]
async fn needed_window_is_kept() {
    type Case<'a> = (&'a str, [Option<i32>; 2], &'a [i64], i64);
    let cases: [Case<'_>; 8] = [
        ("nothing is unread, and something new was folded", [Some(1), None], &[5, 5], 0),
        ("by the log's clock it is new", [Some(20), None], &[5, 5], 1),
        ("what is unread comes after a recent record", [Some(1), Some(20)], &[9, 5], 0),
        ("what is unread comes after an old record", [Some(20), Some(1)], &[9, 5], 1),
        ("what is unread may be of any age", [None, Some(1)], &[9, 5], 1),
        ("no end is known", [Some(20), Some(1)], &[], 1),
        ("one end is unknown", [Some(1), Some(20)], &[5], 1),
        ("a partition has no row", [Some(1), Some(1)], &[5, 5, 1], 1),
    ];
    for (what, last, ends, kept) in cases {
        let database = folded(last).await;
        make_window(&database, 20).await;
        for _ in 0..2 {
            drop_window(&database, ends).await.unwrap();
        }
        assert_eq!(windows(&database).await, kept, "{what}");
    }
}

#[tokio::test]
async fn windows_are_dropped_oldest_first() {
    let database = folded([Some(0), Some(0)]).await;
    for days in [0, 1, 2, 9, 30] {
        make_window(&database, days).await;
    }
    let before = windows(&database).await;
    let mut dropped = Vec::new();
    while let Some(name) = drop_window(&database, &[5, 5]).await.unwrap() {
        dropped.push(name);
    }
    assert_eq!(dropped.len(), 2, "{dropped:?}");
    assert!(dropped.is_sorted(), "{dropped:?}");
    assert_eq!(windows(&database).await, before - 2, "the last 48 hours and what lies in one window with them");
}

#[tokio::test]
async fn window_is_dropped_an_hour_after_its_use() {
    let database = folded([Some(0), Some(0)]).await;
    make_window(&database, 20).await;
    for (seconds, goes) in [(-1, false), (0, true)] {
        // All is unread, and the last folded record is this much younger than the window's end.
        let set = format!("UPDATE kafka_offset SET last_record_time = to_date(right(relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC'
                                                              + interval '48 hours' + interval '49 hours' + make_interval(secs => {seconds})
                   FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'event_handled'::regclass");
        database.execute(set).await;
        assert_eq!(drop_window(&database, &[9, 9]).await.unwrap().is_some(), goes, "{seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_maintained_while_counting() {
    let (topic, system) = set_up(2).await;
    make_window(&system.database, 20).await;
    let counting = Counting::ready(&system, QUICK).await;
    // The next two windows exist before the first like.
    let names = "SELECT count(*) FROM pg_class
                 WHERE relname IN (SELECT 'event_handled_' || to_char(to_timestamp(floor(extract(epoch FROM now()) / 172800) * 172800 + w) AT TIME ZONE 'UTC', 'YYYYMMDD')
                                   FROM (VALUES (0), (172800)) AS windows (w))";
    until("two windows, of now and the next", async || system.number(names).await == 2).await;
    let gauge = async |name: &str| counting.metric(name, "").await as i64;
    until("three windows", async || gauge("likes_event_windows").await == 3).await;
    assert!(gauge("likes_oldest_event_window_seconds").await >= 18 * 86_400);
    // By the log's clock the old one isn't old before the first record.
    publish(&topic, 0, users("u", 3));
    system.folded(3).await;
    until("it is dropped", async || windows(&system.database).await == 2 && gauge("likes_event_windows").await == 2)
        .await;
    publish(&topic, 1, users("u", 3));
    system.folded(6).await;
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 6);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_records_keep_their_window() {
    let (topic, system) = set_up(1).await;
    let database = &system.database;
    publish(&topic, 0, users("u", 3));
    let set_offset = async |next: i64, days: i32| {
        let time = format!("now() - make_interval(days => {days})");
        database.execute(format!("UPDATE kafka_offset SET next_offset = {next}, last_record_time = {time}")).await;
    };
    set_offset(2, 20).await;
    make_window(database, 20).await;
    let upkeep = upkeep(&system);
    for _ in 0..2 {
        dead_letters(&system, 31, 5).await;
        system.number_becomes("SELECT count(*) FROM dead_letter", 0).await;
    }
    assert_eq!(windows(database).await, 1);
    set_offset(3, 0).await;
    until("it is dropped", async || windows(database).await == 0).await;
    upkeep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_other_databases_keep_no_window() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0, users("u", 3));
    publish(&topic, 1, users("elsewhere", 3));
    let database = &system.database;
    let held = "UPDATE topic_layout SET held = '{0}'; DELETE FROM kafka_offset WHERE partition = 1;
                UPDATE kafka_offset SET next_offset = 3, last_record_time = now()";
    database.execute(held).await;
    make_window(database, 20).await;
    let upkeep = upkeep(&system);
    until("it is dropped", async || windows(database).await == 0).await;
    upkeep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_transaction_keeps_its_window() {
    let (topic, system) = set_up(2).await;
    let database = &system.database;
    let transactions = topic.transactions();
    let like = || [event("p0", Some("u"), true).to_json()];
    transactions.begin("p0", &like());
    transactions.commit();
    publish(&topic, 1, users("u", 1));
    until("the marker is in the log", async || topic.end_offsets() == [2, 1]).await;
    // Partition 0 is quiet since 20 days, with a marker at its end; the other one is not.
    database.execute("UPDATE kafka_offset SET next_offset = 1, last_record_time = now() - make_interval(days => 20 - 20 * partition)").await;
    make_window(database, 20).await;
    transactions.begin("p0", &like());
    let upkeep = upkeep(&system);
    for _ in 0..2 {
        dead_letters(&system, 31, 5).await;
        system.number_becomes("SELECT count(*) FROM dead_letter", 0).await;
    }
    assert_eq!(windows(database).await, 1, "what is held back may need it");
    transactions.abort();
    until("it is dropped", async || windows(database).await == 0).await;
    upkeep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_drop_delays_no_batch() {
    let (topic, system) = set_up(1).await;
    let database = &system.database;
    make_window(database, 20).await;
    database.execute("UPDATE kafka_offset SET last_record_time = now()").await;
    let reader = database.lock("SELECT count(*) FROM event_handled").await;
    let start = Instant::now();
    let error = sqlx::query("SELECT drop_event_window('48 hours', $1, '{0}', '{0}')")
        .bind(vec![topic.name.clone()])
        .execute(&database.pool)
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error).as_deref(), Some("55P03"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    let counting = Counting::start(&system, QUICK);
    for round in 0..20i64 {
        publish(&topic, 0, users(&format!("round-{round}"), 5));
        system.folded(5 * (round + 1)).await;
    }
    assert_eq!(windows(database).await, 3, "the reader is in progress");
    assert_eq!(counting.metric("likes_retries_total", "").await as u32, 0);
    reader.rollback().await.unwrap();
    until("it is dropped", async || windows(database).await == 2).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_drops_all_succeed() {
    let database = folded([Some(0), Some(0)]).await;
    for days in 0..10 {
        make_window(&database, 20 + 2 * days).await;
    }
    let before = windows(&database).await;
    let worker = async || {
        let mut dropped = Vec::new();
        for _ in 0..20 {
            dropped.extend(drop_window(&database, &[5, 5]).await.unwrap());
            make_window(&database, 0).await;
        }
        dropped
    };
    let (one, other) = tokio::join!(worker(), worker());
    let mut dropped = [one, other].concat();
    dropped.sort();
    dropped.dedup();
    assert_eq!((dropped.len() as i64, windows(&database).await), (before, 1), "each by one of them");
}

async fn dead_letters(system: &TestSystem, days_ago: i32, number: i32) {
    let sql = format!(
        "INSERT INTO dead_letter (topic, partition, record_offset, reason, rejected_at)
         SELECT 't', {days_ago}, n, 'not_json', now() - make_interval(days => {days_ago}) FROM generate_series(1, {number}) n"
    );
    system.database.execute(sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_kept_for_30_days() {
    let (_topic, system) = set_up(1).await;
    dead_letters(&system, 29, 7).await;
    dead_letters(&system, 31, 2_500).await;
    // One round deletes all of them.
    let counting = Counting::ready(&system, Timing { upkeep: NEVER, ..QUICK }).await;
    system.number_becomes("SELECT count(*) FROM dead_letter", 7).await;
    counting.stop().await.unwrap();
}

/// So many likes, two days apart.
fn scattered(number: i64, believed: i64, ids: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::default();
    for n in 0..number {
        let (offset, time) = (believed + n, NOON - n * 2 * 86_400_000);
        let value = Some(ids[n as usize].as_slice());
        batch.push(&Record { partition: 0, offset, time, key: Some(b"p"), value }, offset);
    }
    batch
}

#[tokio::test]
async fn scattered_timestamps_make_few_windows() {
    const NUMBER: i64 = 500;
    let database = TestDatabase::create().await;
    database.lay_out("t", 1).await;
    database.execute(format!("INSERT INTO fold VALUES ({FOLD_VERSION}, true, 'history', '48h')")).await;
    let values: Vec<_> = users("u", NUMBER as usize).map(|user| event("p", Some(&user), true).to_json()).collect();
    // The second batch repeats the first, with a new process's knowledge of the windows.
    for (believed, applied, duplicates) in [(0, 500, 0), (NUMBER, 0, 500)] {
        let mut store = store(&database, "t", Dedup::History(DEDUP_WINDOW));
        let done = store.apply(&scattered(NUMBER, believed, &values)).await.unwrap();
        assert_eq!((done.applied, done.duplicates), (applied, duplicates));
    }
    assert!(windows(&database).await <= 40, "{}", windows(&database).await);
    // Those of now are made all the same, and the shared one goes with the newest id in it.
    make_window(&database, 0).await;
    let of_now = "SELECT count(*) FROM event_windows() WHERE now() BETWEEN from_at AND to_at";
    assert_eq!(database.number(of_now).await, 1);
    database.execute("UPDATE kafka_offset SET last_record_time = now()").await;
    while drop_window(&database, &[2 * NUMBER]).await.unwrap().is_some() {}
    assert_eq!(
        database.number("SELECT count(*) FROM event_windows() WHERE to_at < now() - interval '49 hours'").await,
        0
    );
    assert_eq!(database.number("SELECT count(*) FROM pg_class WHERE relname = 'event_handled_other'").await, 0);
}

#[tokio::test]
async fn window_is_as_wide_as_ids_are_kept() {
    let database = TestDatabase::create().await;
    make_window(&database, 3).await;
    // As this build asks, and one before it: a window for each two days.
    for day in 0..366 {
        database.execute(format!("SELECT make_event_window(now() - make_interval(days => {day}), '366 days')")).await;
    }
    for slot in 0..183 {
        make_window(&database, 2 * slot).await;
    }
    assert!(windows(&database).await <= 4, "{}", windows(&database).await);
    let uncovered = "SELECT count(*) FROM generate_series(now() - interval '365 days', now(), '1 hour') AS t (at)
                     WHERE (SELECT count(*) FROM event_windows() WHERE from_at <= at AND at < to_at) <> 1";
    assert_eq!(database.number(uncovered).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_upkeep_is_counted() {
    let (_topic, system) = set_up(1).await;
    let rename = async |from: &str, to: &str| {
        let kind = "interval, text[], integer[], bigint[]";
        system.database.execute(format!("ALTER FUNCTION {from}({kind}) RENAME TO {to}")).await;
    };
    rename("drop_event_window", "missing").await;
    let counting = Counting::ready(&system, QUICK).await;
    let failures = async || counting.metric("likes_upkeep_failures", "").await as i64;
    until("three failed rounds", async || failures().await >= 3).await;
    rename("missing", "drop_event_window").await;
    until("it works again", async || failures().await == 0).await;
    counting.stop().await.unwrap();
}

#[tokio::test]
async fn old_hours_are_summed_to_days() {
    let (topic, system) = TestSystem::with_topic(1).await;
    publish(&topic, 0, users("u", 1));
    let aggregator = system.aggregator(&[]).await;
    system.folded(1).await;
    drop(aggregator);
    // By the log's clock, which is behind ours, the last day that has ended 36 days ago is that of 10 October.
    let rows = "DELETE FROM product_like_hour;
        UPDATE kafka_offset SET last_record_time = '2020-11-16T00:30:00Z';
        INSERT INTO product_like_hour VALUES
            ('-infinity', 'p', 100), ('2020-11-15T23:00Z', 'p', 1), ('2020-10-11T00:00Z', 'p', 2), ('2020-10-11T01:00Z', 'p', 3),
            ('2020-10-10T23:00Z', 'p', 4), ('2020-10-10T00:00Z', 'p', 5), ('2020-10-10T07:00Z', 'q', 6),
            ('2020-10-09T01:00Z', 'p', 7), ('2020-10-09T02:00Z', 'p', -8), ('1970-01-01T05:00Z', 'p', 9);
        INSERT INTO product_like_hour SELECT '2020-10-08T13:00Z', 'many-' || n, n FROM generate_series(1, 2500) n";
    system.database.execute(rows).await;
    let sum = "SELECT sum(likes)::bigint FROM product_like_hour";
    let before = system.number(sum).await;
    let task = upkeep(&system);
    until("all is summed", async || {
        let left = "SELECT count(*) FROM product_like_hour
                    WHERE hour < '2020-10-11' AND hour <> date_trunc('day', hour, 'UTC') AND hour > '-infinity'";
        system.number(left).await == 0
    })
    .await;
    task.abort();
    let rows = "SELECT to_char(hour AT TIME ZONE 'UTC', 'MM-DD HH24') || ' ' || product_id || '=' || likes
                FROM product_like_hour WHERE hour > '-infinity' AND product_id IN ('p', 'q') ORDER BY hour, product_id";
    let expected = [
        "01-01 00 p=9",
        "10-09 00 p=-1",
        "10-10 00 p=9",
        "10-10 00 q=6",
        "10-11 00 p=2",
        "10-11 01 p=3",
        "11-15 23 p=1",
    ];
    assert_eq!(system.database.column::<String>(rows).await, expected);
    let many = "SELECT count(*) FROM product_like_hour
                WHERE hour = '2020-10-08T00:00Z' AND product_id = 'many-' || likes";
    assert_eq!(system.number(many).await, 2_500);
    assert_eq!(system.number(sum).await, before, "no like is lost");
}
