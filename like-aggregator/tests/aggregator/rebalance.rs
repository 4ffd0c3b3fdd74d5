//! Partitions that go and come back: what was read of them and not yet applied is dropped, and
//! nothing is counted twice or by somebody else.

use std::time::Duration;

use crate::common::{publish, set_up, users};
use like_testkit::{TestService, TestSystem, eventually};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

const PARTITIONS: i32 = 4;

/// Partitions that it owns.
async fn owned(aggregator: &TestService) -> usize {
    aggregator.series("likes_consumer_lag_records", "").await.len()
}

async fn owns(aggregator: &TestService, number: usize) {
    eventually(&format!("it owns {number} partitions"), async || (owned(aggregator).await == number).then_some(()))
        .await;
}

/// A member of the group that reads nothing: partitions go to it and come back when it leaves.
async fn visit(system: &TestSystem, until: impl AsyncFn()) {
    let setting = |name| system.settings().into_iter().find(|(n, _)| n == name).unwrap().1;
    let visitor: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("group.id", setting("KAFKA_GROUP_ID"))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    visitor.subscribe(&[&system.topic]).unwrap();
    eventually("the visitor has its share", async || {
        let _ = visitor.poll(Duration::from_millis(10));
        (visitor.assignment().unwrap().count() == PARTITIONS as usize / 2).then_some(())
    })
    .await;
    until().await;
    visitor.unsubscribe();
    eventually("the visitor has left", async || {
        let _ = visitor.poll(Duration::from_millis(10));
        (visitor.assignment().unwrap().count() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_of_a_partition_that_goes_is_dropped_also_when_it_comes_back_at_once() {
    let (topic, system) = set_up(PARTITIONS).await;
    // A batch that isn't full for a long time: all that is read is held.
    let aggregator = system.aggregator(&[("BATCH_MAX_WAIT", "1h"), ("BATCH_MAX_EVENTS", "48")]).await;
    owns(&aggregator, PARTITIONS as usize).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("first", 10));
    }
    for _ in 0..2 {
        visit(&system, async || owns(&aggregator, PARTITIONS as usize / 2).await).await;
        owns(&aggregator, PARTITIONS as usize).await;
    }
    assert_eq!(system.number("SELECT count(*) FROM product_like").await, 0, "this test shows nothing otherwise");

    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("second", 2));
    }
    system.folded(48).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT sum(like_count)::bigint FROM product_like_count").await, 48);
    for (metric, label) in [("likes_fences_total", ""), ("likes_events_total", "duplicate")] {
        assert_eq!(aggregator.metric(metric, label).await as u32, 0, "{metric} {label}: it was read twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_for_a_partition_that_is_somebody_elses_now() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator = system.aggregator(&[("BATCH_MAX_WAIT", "1h"), ("BATCH_MAX_EVENTS", "48")]).await;
    owns(&aggregator, PARTITIONS as usize).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("first", 10));
    }
    visit(&system, async || {
        owns(&aggregator, PARTITIONS as usize / 2).await;
        // The batch gets full by what is left: twice 10, and twice 14 more.
        for partition in 0..PARTITIONS {
            if !aggregator.series("likes_consumer_lag_records", &format!("partition=\"{partition}\"")).await.is_empty()
            {
                publish(&topic, partition, users("second", 14));
            }
        }
        system.folded(48).await;
        assert_eq!(system.number("SELECT count(*) FROM kafka_offset WHERE next_offset = 24").await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_flight_when_its_partitions_go_is_not_written_over_the_new_owners() {
    let (topic, system) = set_up(PARTITIONS).await;
    let first = system.aggregator(&[]).await;
    owns(&first, PARTITIONS as usize).await;
    let mut lock = system.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE kafka_offset IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("u", 10));
    }
    eventually("a batch waits for its offsets", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'";
        (system.number(waiting).await == 1).then_some(())
    })
    .await;
    // The second gets half of them while that batch hangs; both then want to write the same.
    let second = system.start_aggregator(&[]);
    owns(&first, PARTITIONS as usize / 2).await;
    lock.rollback().await.unwrap();
    system.folded(40).await;
    assert_eq!(system.number("SELECT sum(like_count)::bigint FROM product_like_count").await, 40);
    let counted = async |of: &TestService| of.metric("likes_events_total", "").await as u32;
    eventually("each record was counted by one of them", async || {
        (counted(&first).await + counted(&second).await == 40).then_some(())
    })
    .await;
    assert_eq!(system.wrong_counts().await, 0);
}
