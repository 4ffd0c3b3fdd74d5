//! Partitions that are revoked and assigned again: unapplied records of them are dropped, and no record
//! is counted twice or by two aggregators.

use std::time::Duration;

use crate::common::{LOCK_OFFSETS, owned, owns, publish, set_up, users};
use like_testkit::{TestService, TestSystem, until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

const PARTITIONS: i32 = 4;
/// A batch isn't full for a long time: all fetched records are held.
const HOLD: [(&str, &str); 2] = [("BATCH_MAX_WAIT", "1h"), ("BATCH_MAX_EVENTS", "48")];

/// A member of the group that reads nothing: partitions go to it and come back when it leaves.
async fn visit(system: &TestSystem, meanwhile: impl AsyncFn()) {
    let visitor: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("group.id", system.setting("KAFKA_GROUP_ID"))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    visitor.subscribe(&[&system.topic]).unwrap();
    until("the visitor has its share", async || {
        let _ = visitor.poll(Duration::from_millis(10));
        visitor.assignment().unwrap().count() == PARTITIONS as usize / 2
    })
    .await;
    meanwhile().await;
    visitor.unsubscribe();
    until("the visitor has left", async || {
        let _ = visitor.poll(Duration::from_millis(10));
        visitor.assignment().unwrap().count() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_revoked_partition_are_dropped() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator = system.aggregator(&HOLD).await;
    owns(&aggregator, PARTITIONS).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("first", 10));
    }
    for _ in 0..2 {
        visit(&system, async || drop(owns(&aggregator, PARTITIONS / 2).await)).await;
        owns(&aggregator, PARTITIONS).await;
    }
    assert_eq!(system.number("SELECT count(*) FROM product_like").await, 0, "this test shows nothing otherwise");

    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("second", 2));
    }
    system.folded(48).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.likes().await, 48);
    for (metric, label) in [("likes_fences_total", ""), ("likes_events_total", "duplicate")] {
        assert_eq!(aggregator.metric(metric, label).await as u32, 0, "{metric} {label}: a record was applied twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_leaves_out_revoked_partitions() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator = system.aggregator(&HOLD).await;
    owns(&aggregator, PARTITIONS).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("first", 10));
    }
    visit(&system, async || {
        owns(&aggregator, PARTITIONS / 2).await;
        // Two partitions fill the batch: 10 and 14 records each.
        for partition in owned(&aggregator).await {
            publish(&topic, partition, users("second", 14));
        }
        system.folded(48).await;
        assert_eq!(system.number("SELECT count(*) FROM kafka_offset WHERE next_offset = 24").await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_in_flight_at_revocation_counts_once() {
    let (topic, system) = set_up(PARTITIONS).await;
    let first = system.aggregator(&[]).await;
    owns(&first, PARTITIONS).await;
    let lock = system.database.lock(LOCK_OFFSETS).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("u", 10));
    }
    system.database.waiting_for_lock("like-aggregator", 1).await;
    // The second gets half of the partitions while that batch hangs; both then apply the same records.
    let second = system.start_aggregator(&[]);
    owns(&first, PARTITIONS / 2).await;
    lock.rollback().await.unwrap();
    system.folded(40).await;
    assert_eq!(system.likes().await, 40);
    let counted = async |of: &TestService| of.metric("likes_events_total", "").await as u32;
    until("each record was counted by one of them", async || counted(&first).await + counted(&second).await == 40)
        .await;
    assert_eq!(system.wrong_counts().await, 0);
}
