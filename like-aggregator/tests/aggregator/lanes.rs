//! Lanes: batches of different partitions that are applied side by side.

use crate::common::{publish, set_up, users};
use like_testkit::{TestSystem, TestTopic, until};

const PARTITIONS: i32 = 4;
const LANES: [(&str, &str); 2] = [("APPLY_LANES", "2"), ("BATCH_MAX_EVENTS", "10")];

fn publish_to_all(topic: &TestTopic, prefix: &str, each: usize) {
    for partition in 0..PARTITIONS {
        publish(topic, partition, users(prefix, each));
    }
}

/// Waits until that many records of all partitions but the first are folded.
async fn others_folded(system: &TestSystem, records: i64) {
    system.number_becomes("SELECT sum(next_offset)::bigint FROM kafka_offset WHERE partition > 0", records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_lane_holds_up_no_other() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator = system.aggregator(&LANES).await;
    let row = "SELECT FROM kafka_offset WHERE partition = 0 FOR UPDATE";
    let lock = system.database.lock(row).await;
    publish(&topic, 0, users("slow", 1));
    system.database.waiting_for_lock("like-aggregator", 1).await;
    // Far more than there is room for.
    publish_to_all(&topic, "u", 200);
    others_folded(&system, 600).await;
    aggregator.process.says("so that other lanes go on").await;
    publish_to_all(&topic, "later", 100);
    others_folded(&system, 900).await;
    let lag = async |partition: &str| aggregator.metric("likes_consumer_lag_records", partition).await as i64;
    until("the lag of the slow partition", async || lag(r#"partition="0""#).await == 301).await;
    lock.rollback().await.unwrap();
    system.folded(1_201).await;
    assert_eq!((system.likes().await, system.wrong_counts().await), (1_201, 0));
    assert_eq!(aggregator.metric("likes_fences_total", "").await as u32, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_share_a_backlog() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator = system.aggregator(&LANES).await;
    let lock = system.database.lock("LOCK TABLE product_like IN ACCESS EXCLUSIVE MODE").await;
    publish_to_all(&topic, "u", 200);
    system.database.waiting_for_lock("like-aggregator", 2).await;
    aggregator.process.says("fetching paused").await;
    lock.rollback().await.unwrap();
    system.folded(800).await;
    assert_eq!((system.likes().await, system.wrong_counts().await), (800, 0));
    assert_eq!(aggregator.metric("likes_fences_total", "").await as u32, 0);
}

/// What fits into one batch is one transaction, in whichever lane.
#[tokio::test(flavor = "multi_thread")]
async fn quiet_system_makes_one_transaction() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator =
        system.aggregator(&[("BATCH_MAX_WAIT", "1h"), ("BATCH_MAX_EVENTS", "8"), ("APPLY_LANES", "4")]).await;
    publish(&topic, 0, users("opening", 1));
    system.folded(1).await;
    publish_to_all(&topic, "u", 2);
    system.folded(9).await;
    assert_eq!(aggregator.metric("likes_batch_events_count", "").await as u32, 2);
}
