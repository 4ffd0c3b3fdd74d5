//! The upkeep of the tables: windows of `event_handled` are there before they are needed and go
//! when nobody can ask for them, old dead letters go, and no batch waits long for any of it.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::common::{Counting, QUICK, publish, set_up, users};
use like_aggregator::fold::Dedup;
use like_aggregator::schema::maintenance::Upkeep;
use like_aggregator::timing::Timing;
use like_common::database::{DatabaseUrl, SCHEMA, sqlstate};
use like_testkit::{TestDatabase, TestSystem, eventually};
use rdkafka::ClientConfig;
use sqlx::PgPool;

const NEVER: Duration = Duration::from_secs(3600);

/// The number of windows of `event_handled`.
async fn windows(pool: &PgPool) -> i64 {
    let sql = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event_handled'::regclass";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn make_window(pool: &PgPool, days_ago: i32) {
    let sql = "SELECT make_event_window(now() - make_interval(days => $1))";
    sqlx::query(sql).bind(days_ago).execute(pool).await.unwrap();
}

/// What may be dropped if the broker says that the logs of partitions 0 and 1 of topic t end here.
async fn drop_window(pool: &PgPool, ends: &[i64]) -> Result<Option<String>, sqlx::Error> {
    let partitions: Vec<i32> = (0..ends.len() as i32).collect();
    let sql = "SELECT drop_event_window('48 hours', array_fill('t'::text, ARRAY[cardinality($1)]), $1, $2)";
    sqlx::query_scalar(sql).bind(partitions).bind(ends).fetch_one(pool).await
}

/// Two partitions, each folded up to 5; the last records are so many days old, none for None.
async fn folded(days_ago: [Option<i32>; 2]) -> TestDatabase {
    let database = TestDatabase::create().await;
    database.lay_out("t", 2).await;
    for (partition, days) in (0..).zip(days_ago) {
        let sql = "UPDATE kafka_offset SET next_offset = 5, last_record_time = now() - make_interval(days => $2)
                   WHERE partition = $1";
        sqlx::query(sql).bind::<i32>(partition).bind(days).execute(&database.pool).await.unwrap();
    }
    database
}

#[tokio::test]
async fn a_window_goes_only_when_neither_the_clock_nor_an_unread_record_can_ask_for_it() {
    type Case<'a> = (&'a str, [Option<i32>; 2], &'a [i64], i64);
    let cases: [Case<'_>; 7] = [
        ("nothing is unread, whatever was folded last", [Some(20), None], &[5, 5], 0),
        ("what is unread comes after a recent record", [Some(1), Some(20)], &[9, 5], 0),
        ("what is unread comes after an old record", [Some(20), Some(1)], &[9, 5], 1),
        ("what is unread may be of any age", [None, Some(1)], &[9, 5], 1),
        ("nobody knows what is unread", [Some(20), Some(1)], &[], 1),
        ("of one partition nobody knows it", [Some(1), Some(20)], &[5], 1),
        ("a partition has no row", [Some(1), Some(1)], &[5, 5, 1], 1),
    ];
    for (what, last, ends, kept) in cases {
        let database = folded(last).await;
        make_window(&database.pool, 20).await;
        for _ in 0..2 {
            drop_window(&database.pool, ends).await.unwrap();
        }
        assert_eq!(windows(&database.pool).await, kept, "{what}");
    }
}

#[tokio::test]
async fn windows_go_oldest_first_and_those_within_the_dedup_window_stay() {
    let database = folded([Some(0), Some(0)]).await;
    for days in [0, 1, 2, 9, 30] {
        make_window(&database.pool, days).await;
    }
    let before = windows(&database.pool).await;
    let mut dropped = Vec::new();
    while let Some(name) = drop_window(&database.pool, &[5, 5]).await.unwrap() {
        dropped.push(name);
    }
    assert_eq!(dropped.len(), 2, "{dropped:?}");
    assert!(dropped.is_sorted(), "{dropped:?}");
    assert_eq!(windows(&database.pool).await, before - 2, "the last 48 hours and what lies in one window with them");
}

#[tokio::test]
async fn a_window_goes_from_the_dedup_window_and_an_hour_after_its_end_on() {
    let database = folded([Some(0), Some(0)]).await;
    make_window(&database.pool, 20).await;
    for (seconds, goes) in [(-1, false), (0, true)] {
        // All is unread, and what was folded last is so much younger than the window's end.
        let set = "UPDATE kafka_offset SET last_record_time = to_date(right(relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC'
                                                              + interval '48 hours' + interval '49 hours' + make_interval(secs => $1)
                   FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'event_handled'::regclass";
        sqlx::query(set).bind(f64::from(seconds)).execute(&database.pool).await.unwrap();
        assert_eq!(drop_window(&database.pool, &[9, 9]).await.unwrap().is_some(), goes, "{seconds} s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_made_ahead_and_dropped_while_it_counts() {
    let (topic, system) = set_up(2).await;
    make_window(&system.database.pool, 20).await;
    let counting = Counting::ready(&system, QUICK).await;
    // Nothing was ever folded: that window is of no use, and those of today and of the day after
    // tomorrow are there before the first like.
    let names = "SELECT count(*) FROM pg_class
                 WHERE relname IN (SELECT 'event_handled_' || to_char(to_timestamp(floor(extract(epoch FROM now()) / 172800) * 172800 + w) AT TIME ZONE 'UTC', 'YYYYMMDD')
                                   FROM (VALUES (0), (172800)) AS windows (w))";
    eventually("two windows, of now and the next", async || {
        (system.number(names).await == 2 && windows(&system.database.pool).await == 2).then_some(())
    })
    .await;
    publish(&topic, 0, users("u", 3));
    system.folded(3).await;
    make_window(&system.database.pool, 20).await;
    eventually("it is dropped", async || (windows(&system.database.pool).await == 2).then_some(())).await;
    publish(&topic, 1, users("u", 3));
    system.folded(6).await;
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 6);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_stays_while_the_broker_has_unread_records_that_may_ask_for_it() {
    let (topic, system) = set_up(1).await;
    let pool = &system.database.pool;
    publish(&topic, 0, users("u", 3));
    let stands = async |next: i64| {
        let sql = "UPDATE kafka_offset SET next_offset = $1, last_record_time = now() - interval '20 days'";
        sqlx::query(sql).bind(next).execute(pool).await.unwrap();
    };
    stands(2).await;
    make_window(pool, 20).await;
    // Nobody counts: the upkeep alone.
    let url = DatabaseUrl::from_str(&system.database.url).unwrap();
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", like_testkit::kafka());
    let upkeep = Upkeep::new(&url, SCHEMA, client, Dedup::Batch, Duration::from_hours(48));
    let upkeep = tokio::spawn(upkeep.run(QUICK.upkeep));
    for _ in 0..2 {
        // Old dead letters go at the end of a round.
        dead_letters(&system, 31, 5).await;
        system.number_becomes("SELECT count(*) FROM dead_letter", 0).await;
    }
    assert_eq!(windows(pool).await, 1);
    stands(3).await;
    eventually("it is dropped", async || (windows(pool).await == 0).then_some(())).await;
    upkeep.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_go_on_while_a_window_cannot_be_dropped() {
    let (topic, system) = set_up(1).await;
    let pool = &system.database.pool;
    make_window(pool, 20).await;
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM event_handled").execute(&mut *reader).await.unwrap();
    let start = Instant::now();
    let error = sqlx::query("SELECT drop_event_window('48 hours', $1, '{0}', '{0}')")
        .bind(vec![topic.name.clone()])
        .execute(pool)
        .await
        .unwrap_err();
    assert_eq!(sqlstate(&error).as_deref(), Some("55P03"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    let counting = Counting::start(&system, QUICK);
    for round in 0..20i64 {
        publish(&topic, 0, users(&format!("round-{round}"), 5));
        system.folded(5 * (round + 1)).await;
    }
    assert_eq!(windows(pool).await, 3, "the reader is still at it");
    assert_eq!(counting.metric("likes_retries_total", "").await as u32, 0);
    reader.rollback().await.unwrap();
    eventually("it is dropped", async || (windows(pool).await == 2).then_some(())).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_drop_at_the_same_moment_none_fails() {
    let database = folded([Some(0), Some(0)]).await;
    for days in 0..10 {
        make_window(&database.pool, 20 + 2 * days).await;
    }
    let before = windows(&database.pool).await;
    let worker = || {
        let pool = database.pool.clone();
        tokio::spawn(async move {
            let mut dropped = Vec::new();
            for _ in 0..20 {
                dropped.extend(drop_window(&pool, &[5, 5]).await.unwrap());
                sqlx::query("SELECT make_event_window(now())").execute(&pool).await.unwrap();
            }
            dropped
        })
    };
    let (one, other) = tokio::join!(worker(), worker());
    let mut dropped = [one.unwrap(), other.unwrap()].concat();
    dropped.sort();
    dropped.dedup();
    assert_eq!((dropped.len() as i64, windows(&database.pool).await), (before, 1), "each by one of them");
}

async fn dead_letters(system: &TestSystem, days_ago: i32, number: i32) {
    let sql = "INSERT INTO dead_letter (topic, partition, record_offset, reason, rejected_at)
               SELECT 't', $1, n, 'not_json', now() - make_interval(days => $1) FROM generate_series(1, $2) n";
    sqlx::query(sql).bind(days_ago).bind(number).execute(&system.database.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_kept_for_30_days() {
    let (_topic, system) = set_up(1).await;
    dead_letters(&system, 29, 7).await;
    dead_letters(&system, 31, 2_500).await;
    // One round is enough, however many there are.
    let counting = Counting::ready(&system, Timing { upkeep: NEVER, ..QUICK }).await;
    system.number_becomes("SELECT count(*) FROM dead_letter", 7).await;
    counting.stop().await.unwrap();
}
