//! The log is no longer the one that was folded: cut by retention, shorter, or another one under the same
//! name. Lost records are recorded as gaps, and a wrong log stops its partition and no other.

use crate::common::{Counting, LOCK_OFFSETS, NEVER, QUICK, kafka_properties, publish, set_up, users};
use like_aggregator::timing::Timing;
use like_testkit::{TestSystem, TestTopic, until};
use serde_json::Value;

/// partition, from, to
async fn gaps(system: &TestSystem) -> Vec<(i32, i64, i64)> {
    let sql = "SELECT partition, from_offset, to_offset FROM log_gap ORDER BY 1, 2";
    system.database.rows(sql).await
}

/// One per partition.
async fn offsets(system: &TestSystem) -> Vec<i64> {
    system.database.column("SELECT next_offset FROM kafka_offset ORDER BY partition").await
}

async fn offsets_become(system: &TestSystem, expected: &[i64]) {
    until(&format!("offsets {expected:?}"), async || offsets(system).await == expected).await;
}

/// A partition's problem according to `status`, and the table of `status`.
async fn status(system: &TestSystem, partition: usize) -> (Value, String) {
    let (status, json) = system.json(&["status"]).await;
    assert_eq!(status, 0, "{json}");
    (json["partitions"][partition]["problem"].clone(), system.succeeds(&["status"]).await)
}

/// Folds five likes of p0 and stops.
async fn five_folded(system: &TestSystem, topic: &TestTopic) {
    publish(topic, 0, users("old", 5));
    let counting = Counting::start(system, QUICK);
    system.folded(5).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_removed_records_are_a_gap() {
    let (topic, system) = set_up(3).await;
    five_folded(&system, &topic).await;
    publish(&topic, 0, users("new", 5));
    publish(&topic, 1, users("new", 5));
    topic.cut(0, 7).await;
    topic.cut(1, 4).await;
    assert_eq!(status(&system, 0).await.0, "2 records are gone and were not folded");
    system.setup(&["--partitions", "3"]).await;

    let mut aggregator = system.aggregator(&[("BATCH_MAX_EVENTS", "1"), ("APPLY_LANES", "1")]).await;
    offsets_become(&system, &[10, 5, 0]).await;
    assert_eq!(gaps(&system).await, [(0, 5, 7), (1, 0, 4)]);
    assert_eq!(system.likes().await, 5 + 3 + 1);
    assert_eq!(aggregator.metric("likes_log_gaps_total", "").await as u32, 2);
    assert_eq!(aggregator.metric("likes_log_gap_records_total", "").await as u32, 6);
    assert!(aggregator.process.log().contains("recorded in log_gap"));

    // The same while it runs: one record is in flight, the next one is collected.
    let lock = system.database.lock(LOCK_OFFSETS).await;
    publish(&topic, 2, users("early", 2));
    aggregator.process.says("fetching paused").await;
    publish(&topic, 2, users("late", 6));
    topic.cut(2, 5).await;
    lock.rollback().await.unwrap();
    offsets_become(&system, &[10, 5, 8]).await;
    assert_eq!(gaps(&system).await[2..], [(2, 2, 5)]);
    assert_eq!(system.likes().await, 9 + 2 + 3);
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
async fn folded_removed_records_are_no_gap() {
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
async fn offset_past_the_end_stops_its_partition() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0, users("u", 3));
    system.database.execute("UPDATE kafka_offset SET next_offset = 100 WHERE partition = 0").await;
    let counting = Counting::start(&system, QUICK);
    counting.waits_for("log", "partition 0: it is folded up to 100 and its log ends at 3").await;
    counting.waits_for("log", "like-aggregator offsets reset").await;
    counting.waits_for("log", "like-aggregator rebuild").await;
    assert_eq!(counting.metric("likes_stopped_partitions", "beyond_log_end").await as u32, 1);
    assert_eq!(status(&system, 0).await.0, "folded beyond the log's end: the topic was cut or created again");
    publish(&topic, 1, users("u", 2));
    offsets_become(&system, &[100, 2]).await;
    assert_eq!(system.likes().await, 2);

    // An operator resets the offset.
    system.database.execute("UPDATE kafka_offset SET next_offset = 1 WHERE partition = 0").await;
    offsets_become(&system, &[3, 2]).await;
    until("ready again", async || counting.is_ready().await).await;
    assert_eq!(counting.metric("likes_stopped_partitions", "").await as u32, 0);
    assert_eq!(system.likes().await, 2 + 2);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn briefly_shorter_log_stops_nothing() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0, users("u", 3));
    system.database.execute("UPDATE kafka_offset SET next_offset = 5").await;
    let patient = Timing { beyond_end: NEVER, ..QUICK };
    let mut aggregator = system.start_aggregator(&[]);
    aggregator.process.says("waiting").await;
    publish(&topic, 0, users("v", 4));
    offsets_become(&system, &[7]).await;
    assert_eq!(system.likes().await, 2);
    aggregator.wait_until_ready().await;
    drop(aggregator);

    // One past the end of the log, which the broker doesn't report as out of range.
    system.database.execute("UPDATE kafka_offset SET next_offset = 8").await;
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
    assert_eq!(system.likes().await, 5 + 2);

    // Count the new log alone.
    if records >= 5 {
        system.succeeds(&["rebuild", "--yes"]).await;
        offsets_become(&system, &[records as i64, 2]).await;
        assert_eq!(system.likes().await, records as i64 + 2);
        until("ready after the rebuild", async || counting.is_ready().await).await;
    }
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hole_at_the_folded_record_is_detected() {
    let (mut topic, system) = set_up(1).await;
    five_folded(&system, &topic).await;
    topic.recreate().await;
    // Four records and a marker at 4, then more records.
    let transactions = topic.transactions();
    transactions.begin("p", &vec![b"x".to_vec(); 4]);
    transactions.commit();
    until("the marker is in the log", async || topic.end_offsets() == [5]).await;
    publish(&topic, 0, users("new", 3));

    let counting = Counting::start(&system, QUICK);
    counting.waits_for("log", "the record at 4 was folded and is no longer there").await;
    assert_eq!(counting.metric("likes_stopped_partitions", "another_log").await as u32, 1);
    assert_eq!(offsets(&system).await, [5]);

    // An operator accepts this log.
    system.database.execute("UPDATE kafka_offset SET last_record_time = NULL").await;
    offsets_become(&system, &[8]).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_recreated_at_run_time_is_detected() {
    tokio::join!(recreated_at_run_time_with(3), recreated_at_run_time_with(12));
}

async fn recreated_at_run_time_with(records: usize) {
    let (mut topic, mut system) = set_up(2).await;
    // The topic check would end it, and librdkafka's default refreshes metadata every five minutes.
    let _file = kafka_properties(&mut system, "topic.metadata.refresh.interval.ms=500\n");
    let counting = Counting::ready(&system, Timing { topic_check: NEVER, ..QUICK }).await;
    publish(&topic, 0, users("old", 5));
    system.folded(5).await;
    topic.recreate().await;
    publish(&topic, 0, users("new", records));
    publish(&topic, 1, users("new", 2));

    let why = if records < 5 { "its log ends at 3" } else { "the record at 4 that was folded has the timestamp" };
    counting.waits_for("log", why).await;
    offsets_become(&system, &[5, 2]).await;
    assert_eq!(system.likes().await, 5 + 2);
    counting.stop().await.unwrap();
}
