//! What a running aggregator checks again and again: the topic, missing offset rows, the lag.

use crate::common::{Counting, LOCK_OFFSETS, QUICK, publish, set_up, users};
use like_testkit::until;

#[tokio::test(flavor = "multi_thread")]
async fn growing_topic_ends_the_aggregator() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, QUICK).await;
    topic.grow(3).await;
    let why = counting.ended().await;
    assert!(why.contains("has 3 partitions and its layout says 2"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_topic_ends_the_aggregator() {
    let (topic, system) = set_up(1).await;
    let counting = Counting::ready(&system, QUICK).await;
    topic.configure(&[("cleanup.policy", "compact")]).await;
    let why = counting.ended().await;
    assert!(why.contains("compaction deletes events"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn inserted_offset_row_is_found() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0, users("u", 2));
    publish(&topic, 1, users("u", 2));
    system.database.execute("DELETE FROM kafka_offset WHERE partition = 1").await;
    let counting = Counting::start(&system, QUICK);
    counting.waits_for("kafka_offset", "no row in kafka_offset for partitions {1}").await;
    assert_eq!(counting.metric("likes_stopped_partitions", "no_offset_row").await as u32, 1);
    system.folded(2).await;

    let restore = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at) VALUES ($1, 1, 0, now())";
    sqlx::query(restore).bind(&topic.name).execute(&system.database.pool).await.unwrap();
    system.folded(4).await;
    until("ready", async || counting.is_ready().await).await;
    assert_eq!(counting.metric("likes_stopped_partitions", "").await as u32, 0);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_right_while_paused() {
    let (topic, system) = set_up(2).await;
    let aggregator = system.aggregator(&[("BATCH_MAX_EVENTS", "1"), ("APPLY_LANES", "1")]).await;
    let lock = system.database.lock(LOCK_OFFSETS).await;
    publish(&topic, 0, users("early", 3));
    aggregator.process.says("fetching paused").await;
    // After the pause nothing is fetched.
    publish(&topic, 0, users("late", 40));
    publish(&topic, 1, users("late", 5));
    let lag = async |partition: &str| aggregator.metric("likes_consumer_lag_records", partition).await as i64;
    until("the lag of both partitions", async || {
        (lag(r#"partition="0""#).await, lag(r#"partition="1""#).await) == (43, 5)
    })
    .await;
    lock.rollback().await.unwrap();
    system.folded(48).await;
    until("no lag", async || lag("").await == 0).await;
}
