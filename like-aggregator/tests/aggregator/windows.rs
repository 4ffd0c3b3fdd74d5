//! Maintenance of the tables: windows of `event_handled` exist before they are needed and are dropped when
//! no record can refer to them, old dead letters are deleted, and no batch waits long for it.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::common::{Counting, DEDUP_WINDOW, NEVER, QUICK, publish, set_up, users};
use like_aggregator::fold::Dedup;
use like_aggregator::schema::maintenance::Upkeep;
use like_aggregator::timing::Timing;
use like_common::database::{DatabaseUrl, SCHEMA, sqlstate};
use like_testkit::{TestDatabase, TestSystem, event, until};
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
    let upkeep = Upkeep::new(&url, SCHEMA, client, Dedup::Batch, DEDUP_WINDOW);
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
async fn needed_window_is_kept() {
    type Case<'a> = (&'a str, [Option<i32>; 2], &'a [i64], i64);
    let cases: [Case<'_>; 7] = [
        ("nothing is unread, whatever was folded last", [Some(20), None], &[5, 5], 0),
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
    // No record is folded: the old window is dropped, and the next two exist before the first like.
    let names = "SELECT count(*) FROM pg_class
                 WHERE relname IN (SELECT 'event_handled_' || to_char(to_timestamp(floor(extract(epoch FROM now()) / 172800) * 172800 + w) AT TIME ZONE 'UTC', 'YYYYMMDD')
                                   FROM (VALUES (0), (172800)) AS windows (w))";
    until("two windows, of now and the next", async || {
        system.number(names).await == 2 && windows(&system.database).await == 2
    })
    .await;
    publish(&topic, 0, users("u", 3));
    system.folded(3).await;
    make_window(&system.database, 20).await;
    until("it is dropped", async || windows(&system.database).await == 2).await;
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
    let set_offset = async |next: i64| {
        let time = "now() - interval '20 days'";
        database.execute(format!("UPDATE kafka_offset SET next_offset = {next}, last_record_time = {time}")).await;
    };
    set_offset(2).await;
    make_window(database, 20).await;
    let upkeep = upkeep(&system);
    for _ in 0..2 {
        dead_letters(&system, 31, 5).await;
        system.number_becomes("SELECT count(*) FROM dead_letter", 0).await;
    }
    assert_eq!(windows(database).await, 1);
    set_offset(3).await;
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
