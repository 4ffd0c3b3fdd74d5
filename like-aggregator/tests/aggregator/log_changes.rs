//! The log is no longer the one that was folded: cut by retention, shorter than what was folded,
//! or another one under the same name. What is lost is recorded, what is wrong stops its partition
//! and no other, and nothing is skipped in silence.

use std::time::Duration;

use crate::common::{Counting, QUICK, publish, set_up, users};
use like_aggregator::timing::Timing;
use like_testkit::{TestSystem, eventually};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

/// partition, from, to
async fn gaps(system: &TestSystem) -> Vec<(i32, i64, i64)> {
    let sql = "SELECT partition, from_offset, to_offset FROM log_gap ORDER BY 1, 2";
    sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap()
}

/// Per partition.
async fn offsets(system: &TestSystem) -> Vec<i64> {
    let sql = "SELECT next_offset FROM kafka_offset ORDER BY partition";
    sqlx::query_scalar(sql).fetch_all(&system.database.pool).await.unwrap()
}

async fn offsets_become(system: &TestSystem, expected: &[i64]) {
    eventually(&format!("offsets {expected:?}"), async || (offsets(system).await == expected).then_some(())).await;
}

/// What `status` says of a partition, and its table.
async fn status(system: &TestSystem, partition: usize) -> (Value, String) {
    let json = system.command(&["status", "--json"]).await;
    assert!(json.status.success(), "{json:?}");
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let table = system.command(&["status"]).await;
    (json["partitions"][partition]["problem"].clone(), String::from_utf8(table.stdout).unwrap())
}

async fn execute(system: &TestSystem, sql: &'static str) {
    sqlx::query(sql).execute(&system.database.pool).await.unwrap();
}

/// Folds five likes of p0 and stops.
async fn five_folded(system: &TestSystem, topic: &like_testkit::TestTopic) {
    publish(topic, 0, users("old", 5));
    let counting = Counting::start(system, QUICK);
    system.folded(5).await;
    counting.stop().await.unwrap();
}

const LIKERS: &str = "SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count";

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_unread_is_a_recorded_gap_and_the_rest_counts() {
    let (topic, system) = set_up(3).await;
    five_folded(&system, &topic).await;
    publish(&topic, 0, users("new", 5));
    publish(&topic, 1, users("new", 5));
    topic.cut(0, 7).await;
    topic.cut(1, 4).await;
    assert_eq!(status(&system, 0).await.0, "2 records are gone and were not folded");
    system.setup(&["--partitions", "3"]).await;

    let mut aggregator = system.aggregator(&[("BATCH_MAX_EVENTS", "1")]).await;
    offsets_become(&system, &[10, 5, 0]).await;
    assert_eq!(gaps(&system).await, [(0, 5, 7), (1, 0, 4)]);
    assert_eq!(system.number(LIKERS).await, 5 + 3 + 1);
    assert_eq!(aggregator.metric("likes_log_gaps_total", "").await as u32, 2);
    assert_eq!(aggregator.metric("likes_log_gap_records_total", "").await as u32, 6);
    assert!(aggregator.process.log().contains("recorded in log_gap"));

    // The same under one that is running, but late: one record is in flight, the next collected.
    let mut lock = system.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE kafka_offset IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    publish(&topic, 2, users("early", 2));
    aggregator.process.says("fetching paused").await;
    publish(&topic, 2, users("late", 6));
    topic.cut(2, 5).await;
    lock.rollback().await.unwrap();
    offsets_become(&system, &[10, 5, 8]).await;
    assert_eq!(gaps(&system).await[2..], [(2, 2, 5)]);
    assert_eq!(system.number(LIKERS).await, 9 + 2 + 3);
    publish(&topic, 0, users("last", 1));
    offsets_become(&system, &[11, 5, 8]).await;
    aggregator.wait_until_ready().await;
    assert!(aggregator.stop().await.0.success());
    let (problem, table) = status(&system, 2).await;
    assert_eq!(problem, Value::Null);
    let row = |line: &str| line.split_whitespace().take(3).eq(["2", "2", "5"]);
    assert!(table.lines().any(row), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_up_to_the_stored_offset_is_no_gap() {
    let (topic, system) = set_up(1).await;
    five_folded(&system, &topic).await;
    topic.cut(0, 5).await;
    let counting = Counting::ready(&system, QUICK).await;
    publish(&topic, 0, users("new", 2));
    offsets_become(&system, &[7]).await;
    assert_eq!(gaps(&system).await, []);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_offset_beyond_the_logs_end_stops_its_partition_and_no_other() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0, users("u", 3));
    execute(&system, "UPDATE kafka_offset SET next_offset = 100 WHERE partition = 0").await;
    let counting = Counting::start(&system, QUICK);
    counting.waits_for("log", "partition 0: it is folded up to 100 and its log ends at 3").await;
    counting.waits_for("log", "like-aggregator offsets reset").await;
    counting.waits_for("log", "like-aggregator rebuild").await;
    assert_eq!(counting.metric("likes_stopped_partitions", "beyond_log_end").await as u32, 1);
    assert_eq!(status(&system, 0).await.0, "folded beyond the log's end: the topic was cut or created again");
    publish(&topic, 1, users("u", 2));
    offsets_become(&system, &[100, 2]).await;
    assert_eq!(system.number(LIKERS).await, 2);

    // Somebody has said where to go on.
    execute(&system, "UPDATE kafka_offset SET next_offset = 1 WHERE partition = 0").await;
    offsets_become(&system, &[3, 2]).await;
    eventually("ready again", async || counting.is_ready().await.then_some(())).await;
    assert_eq!(counting.metric("likes_stopped_partitions", "").await as u32, 0);
    assert_eq!(system.number(LIKERS).await, 2 + 2);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_early_for_a_moment_stops_nothing() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0, users("u", 3));
    execute(&system, "UPDATE kafka_offset SET next_offset = 5").await;
    let patient = Timing { beyond_end: Duration::from_secs(3600), ..QUICK };
    let mut aggregator = system.start_aggregator(&[]);
    aggregator.process.says("waiting").await;
    publish(&topic, 0, users("v", 4));
    offsets_become(&system, &[7]).await;
    assert_eq!(system.number(LIKERS).await, 2);
    aggregator.wait_until_ready().await;
    drop(aggregator);

    // One too many, and the record before it is known: nothing is out of range for the broker.
    execute(&system, "UPDATE kafka_offset SET next_offset = 8").await;
    let counting = Counting::ready(&system, patient).await;
    counting.stop().await.unwrap();
    let counting = Counting::start(&system, QUICK);
    counting.waits_for("log", "it is folded up to 8 and its log ends at 7").await;
    assert_eq!(offsets(&system).await, [8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_topic_is_detected_past_the_stored_offset() {
    tokio::join!(recreated_with(3), recreated_with(5), recreated_with(12));
}

async fn recreated_with(records: usize) {
    let (mut topic, system) = set_up(2).await;
    five_folded(&system, &topic).await;
    topic.recreate().await;
    publish(&topic, 0, users("new", records));
    publish(&topic, 1, users("new", 2));

    let counting = Counting::start(&system, QUICK);
    offsets_become(&system, &[5, 2]).await;
    let why = if records < 5 { "its log ends at 3" } else { "the record at 4 that was folded has the timestamp" };
    counting.waits_for("log", why).await;
    let stopped = counting.metric("likes_stopped_partitions", "").await;
    assert_eq!((stopped as u32, offsets(&system).await), (1, vec![5, 2]), "{records} records");
    let (problem, table) = status(&system, 0).await;
    assert!(problem.as_str().is_some_and(|problem| problem.ends_with("created again")), "{records} records: {table}");
    assert_eq!(status(&system, 1).await.0, Value::Null, "{table}");
    assert_eq!(system.number(LIKERS).await, 5 + 2);

    // The new log alone is to be counted. Where the old one stood, the new one stands too.
    if records >= 5 {
        let rebuilt = system.command(&["rebuild", "--yes"]).await;
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        offsets_become(&system, &[records as i64, 2]).await;
        assert_eq!(system.number(LIKERS).await, records as i64 + 2);
        eventually("it goes on by itself", async || counting.is_ready().await.then_some(())).await;
    }
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_a_hole_where_a_record_was_folded_is_another_log() {
    let (mut topic, system) = set_up(1).await;
    five_folded(&system, &topic).await;
    topic.recreate().await;
    // Four records and a marker at 4, then more.
    let wait = Duration::from_secs(30);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("transactional.id", &topic.name)
        .create()
        .unwrap();
    producer.init_transactions(wait).unwrap();
    producer.begin_transaction().unwrap();
    for _ in 0..4 {
        producer.send(BaseRecord::to(&topic.name).key("p").payload("x")).unwrap();
    }
    producer.flush(wait).unwrap();
    producer.commit_transaction(wait).unwrap();
    eventually("the marker is in the log", async || (topic.end_offsets() == [5]).then_some(())).await;
    publish(&topic, 0, users("new", 3));

    let counting = Counting::start(&system, QUICK);
    counting.waits_for("log", "the record at 4 was folded and is no longer there").await;
    assert_eq!(counting.metric("likes_stopped_partitions", "another_log").await as u32, 1);
    assert_eq!(offsets(&system).await, [5]);

    // Somebody has looked at it and says that this log is to be gone on with.
    execute(&system, "UPDATE kafka_offset SET last_record_time = NULL").await;
    offsets_become(&system, &[8]).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_recreated_at_run_time_is_detected() {
    tokio::join!(recreated_at_run_time_with(3), recreated_at_run_time_with(12));
}

async fn recreated_at_run_time_with(records: usize) {
    let (mut topic, mut system) = set_up(2).await;
    // Should it see the topic gone, it would end; or wait for five minutes until it looks again.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "topic.metadata.refresh.interval.ms=500\n").unwrap();
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().unwrap());
    let never = Duration::from_secs(3600);
    let counting = Counting::ready(&system, Timing { topic_check: never, ..QUICK }).await;
    publish(&topic, 0, users("old", 5));
    system.folded(5).await;
    topic.recreate().await;
    publish(&topic, 0, users("new", records));
    publish(&topic, 1, users("new", 2));

    let why = if records < 5 { "its log ends at 3" } else { "the record at 4 that was folded has the timestamp" };
    counting.waits_for("log", why).await;
    offsets_become(&system, &[5, 2]).await;
    assert_eq!(system.number(LIKERS).await, 5 + 2);
    counting.stop().await.unwrap();
}
