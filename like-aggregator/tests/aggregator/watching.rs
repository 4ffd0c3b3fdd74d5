//! What is looked at again and again while it counts: the topic, rows that are missing, the lag.

use crate::common::{Counting, QUICK, publish, set_up, users};
use like_testkit::eventually;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", like_testkit::kafka()).create().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_under_a_running_aggregator_ends_it() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, QUICK).await;
    let grown = admin().create_partitions([&NewPartitions::new(&topic.name, 3)], &AdminOptions::new()).await.unwrap();
    grown.into_iter().for_each(|result| drop(result.unwrap()));
    let why = counting.ended().await;
    assert!(why.contains("has 3 partitions and its layout says 2"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_to_be_compacted_ends_a_running_aggregator() {
    let (topic, system) = set_up(1).await;
    let counting = Counting::ready(&system, QUICK).await;
    let compact = AlterConfig::new(ResourceSpecifier::Topic(&topic.name)).set("cleanup.policy", "compact");
    let altered = admin().alter_configs([&compact], &AdminOptions::new()).await.unwrap();
    altered.into_iter().for_each(|result| drop(result.unwrap()));
    let why = counting.ended().await;
    assert!(why.contains("compaction deletes events"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_row_is_asked_for_again_until_the_row_is_there() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0, users("u", 2));
    publish(&topic, 1, users("u", 2));
    sqlx::query("DELETE FROM kafka_offset WHERE partition = 1").execute(&system.database.pool).await.unwrap();
    let counting = Counting::start(&system, QUICK);
    counting.waits_for("kafka_offset", "no row in kafka_offset for partitions {1}").await;
    assert_eq!(counting.metric("likes_stopped_partitions", "no_offset_row").await as u32, 1);
    system.folded(2).await;

    let restore = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at) VALUES ($1, 1, 0, now())";
    sqlx::query(restore).bind(&topic.name).execute(&system.database.pool).await.unwrap();
    system.folded(4).await;
    eventually("ready", async || counting.is_ready().await.then_some(())).await;
    assert_eq!(counting.metric("likes_stopped_partitions", "").await as u32, 0);
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_true_while_the_database_holds_everything_up() {
    let (topic, system) = set_up(2).await;
    let aggregator = system.aggregator(&[("BATCH_MAX_EVENTS", "1")]).await;
    let mut lock = system.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE kafka_offset IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    publish(&topic, 0, users("early", 3));
    aggregator.process.says("fetching paused").await;
    // More than can have been fetched ahead is never needed: after the pause nothing is fetched.
    publish(&topic, 0, users("late", 40));
    publish(&topic, 1, users("late", 5));
    let lag = async |partition: &str| aggregator.metric("likes_consumer_lag_records", partition).await as i64;
    eventually("the lag is told", async || {
        ((lag(r#"partition="0""#).await, lag(r#"partition="1""#).await) == (43, 5)).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    system.folded(48).await;
    eventually("no lag", async || (lag("").await == 0).then_some(())).await;
}
