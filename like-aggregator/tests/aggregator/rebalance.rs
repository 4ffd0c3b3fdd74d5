//! Partitions that are revoked and assigned again: unapplied records of them are dropped, and no record
//! is counted twice or by two aggregators.

use std::time::Duration;

use crate::common::{Counting, LOCK_OFFSETS, QUICK, owned, owns, publish, set_up, users};
use like_aggregator::timing::Timing;
use like_testkit::{TestServers, TestService, TestSystem, TestTopic, until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

const PARTITIONS: i32 = 4;
/// After a first batch, only a full one is applied: all fetched records are held. And one lane applies it.
const HOLD: [(&str, &str); 3] = [("BATCH_MAX_WAIT", "1h"), ("BATCH_MAX_EVENTS", "48"), ("APPLY_LANES", "1")];

/// An aggregator that has applied its first batch, of one like, and owns all partitions.
async fn holding(topic: &TestTopic, system: &TestSystem) -> TestService {
    let aggregator = system.aggregator(&HOLD).await;
    owns(&aggregator, PARTITIONS).await;
    publish(topic, 0, users("opening", 1));
    system.folded(1).await;
    aggregator
}

/// A member of the group that reads nothing: partitions go to it and come back when it leaves.
async fn visit(system: &TestSystem, meanwhile: impl AsyncFn()) {
    visit_by("cooperative-sticky", system, PARTITIONS / 2, meanwhile).await;
}

/// The same with this assignor; the visitor's share is so many partitions.
async fn visit_by(assignor: &str, system: &TestSystem, share: i32, meanwhile: impl AsyncFn()) {
    let visitor: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("group.id", system.setting("KAFKA_GROUP_ID"))
        .set("partition.assignment.strategy", assignor)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    visitor.subscribe(&[&system.topic]).unwrap();
    until("the visitor has its share", async || {
        let _ = visitor.poll(Duration::from_millis(10));
        visitor.assignment().unwrap().count() == share as usize
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
    let aggregator = holding(&topic, &system).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("first", 10));
    }
    for _ in 0..2 {
        visit(&system, async || drop(owns(&aggregator, PARTITIONS / 2).await)).await;
        owns(&aggregator, PARTITIONS).await;
    }
    assert_eq!(system.number("SELECT count(*) FROM product_like").await, 1, "this test shows nothing otherwise");

    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("second", 2));
    }
    system.folded(49).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.likes().await, 49);
    for (metric, label) in [("likes_fences_total", ""), ("likes_events_total", "duplicate")] {
        assert_eq!(aggregator.metric(metric, label).await as u32, 0, "{metric} {label}: a record was applied twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_leaves_out_revoked_partitions() {
    let (topic, system) = set_up(PARTITIONS).await;
    let aggregator = holding(&topic, &system).await;
    for partition in 0..PARTITIONS {
        publish(&topic, partition, users("first", 10));
    }
    visit(&system, async || {
        owns(&aggregator, PARTITIONS / 2).await;
        // Two partitions fill the batch: 10 and 14 records each.
        for partition in owned(&aggregator).await {
            publish(&topic, partition, users("second", 14));
        }
        system.folded(49).await;
        assert_eq!(system.number("SELECT count(*) FROM kafka_offset WHERE next_offset >= 24").await, 2);
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

/// So that a lost member is noticed soon.
const SHORT_SESSION: &str = "session.timeout.ms=2000\nheartbeat.interval.ms=500\n";

#[tokio::test(flavor = "multi_thread")]
async fn expelled_member_is_not_ready() {
    let (topic, mut system) = set_up(1).await;
    let _file = system.kafka_properties(SHORT_SESSION);
    let mut aggregator = system.aggregator(&[]).await;
    owns(&aggregator, 1).await;
    aggregator.process.freeze();
    // Another program joins its group, by an assignor that it doesn't have.
    visit_by("range", &system, 1, async || {
        aggregator.process.thaw();
        aggregator.waits_for("consumer group", "InconsistentGroupProtocol").await;
    })
    .await;
    aggregator.wait_until_ready().await;
    publish(&topic, 0, users("u", 3));
    system.folded(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_on_another_port_is_found() {
    let mut servers = TestServers::start().await;
    let proxy = servers.kafka_proxy().await;
    let mut system = servers.system().await;
    system.setup(&["--partitions", "1"]).await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &servers.proxied_listener());
    let _file = system.kafka_properties(SHORT_SESSION);
    let counting = Counting::ready(&system, Timing { rejoin: Duration::from_secs(3), ..QUICK }).await;
    drop(proxy);
    servers.restart_kafka_elsewhere().await;
    let _proxy = servers.kafka_proxy().await;
    counting.waits_for("consumer group", "not a member").await;
    let api = system.api(&[]).await;
    api.client().click("u", "p", true, "k").await;
    system.likes_become(1).await;
    until("ready", async || counting.is_ready().await).await;
    counting.stop().await.unwrap();
}
