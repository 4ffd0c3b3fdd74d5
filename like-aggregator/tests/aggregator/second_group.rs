//! The drill "a second group reads the topic too" of docs/OPERATIONS.md: Kafka's own consumer and a
//! second like-aggregator read from the start while the first one counts new likes, undisturbed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{drill, owned, owns, passing_crowd};
use like_testkit::broker::java;
use like_testkit::process::TestProcess;
use like_testkit::{Click, Differences, TestDatabase, TestSystem, until};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

const PARTITIONS: i32 = 4;

/// The committed offset of each partition, as a lag tool reads it.
fn committed(group: &str, topic: &str) -> Vec<Option<i64>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", like_testkit::kafka()).set("group.id", group);
    let client: BaseConsumer = config.create().unwrap();
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_range(topic, 0, PARTITIONS - 1);
    let committed = client.committed_offsets(partitions, Duration::from_secs(30)).unwrap();
    let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    committed.elements_for_topic(topic).iter().map(|partition| offset(partition.offset())).collect()
}

/// The ids of the events that it has printed so far.
fn events(console: &TestProcess) -> BTreeSet<String> {
    let log = console.log();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| Some(event["eventId"].as_str()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn second_group_disturbs_no_other() {
    let (topic, first) = TestSystem::with_topic(PARTITIONS).await;
    let aggregator = first.aggregator(&[]).await;
    let api = first.api(&[]).await;
    owns(&aggregator, PARTITIONS).await;
    let crowd = passing_crowd(10, &[api.client()]);
    crowd.clicks(300).await;

    // Kafka's own consumer.
    let (folder, console_group) = (tempfile::tempdir().unwrap(), format!("console-{}", topic.name));
    let words = drill::section("## Drill: a second group reads the topic");
    let words = words.lines().find_map(|line| line.trim().strip_prefix("kafka-console-consumer.sh ")).unwrap();
    let mut console = java(folder.path(), "org.apache.kafka.tools.consumer.ConsoleConsumer");
    console.args(words.split_whitespace().map(|word| match word {
        r#""$KAFKA_BOOTSTRAP_SERVERS""# => like_testkit::kafka(),
        "like-update-topic-v1" => topic.name.clone(),
        "look" => console_group.clone(),
        word => word.to_owned(),
    }));
    let mut console = TestProcess::start("kafka-console-consumer.sh", console);

    // A second count of the same log: a group and a database of its own.
    let mut second = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    let group = format!("second-{}", topic.name);
    second.set("KAFKA_GROUP_ID", &group);
    let commands = drill::commands("## Drill: a second group reads the topic", &[]);
    let [setup, run, audit] = &commands[..] else { panic!("{commands:?}") };
    second.succeeds(setup).await;
    assert_eq!(run, &["run"]);
    let mut second_aggregator = second.aggregator(&[]).await;
    crowd.clicks(300).await;
    until("the second one counts", async || second.likes().await > 0).await;
    until("Kafka's own consumer reads", async || !events(&console).is_empty()).await;
    // The first one's likes are counted meanwhile.
    let liked = api.client().click("user", "product", true, "1").await;
    api.client().wait_until_counted(&liked.receipt).await;
    crowd.clicks(300).await;

    let mut record = crowd.finish().await;
    let (user, product) = ("user".to_owned(), "product".to_owned());
    record.note(Click { user, product, liked: true, acknowledged: liked });
    let ends = topic.end_offsets();
    for system in [&first, &second] {
        system.folded(ends.iter().sum()).await;
        assert_eq!(record.compare_tables(system).await, Differences::default());
        system.succeeds(audit).await;
    }
    let acknowledged: BTreeSet<_> = record.event_ids.iter().map(ToString::to_string).collect();
    until("Kafka's own consumer has read all acknowledged events", async || {
        events(&console).is_superset(&acknowledged)
    })
    .await;
    for group in [first.setting("KAFKA_GROUP_ID").to_owned(), group, console_group] {
        until(&format!("a lag tool sees no lag of {group}"), async || {
            committed(&group, &topic.name).into_iter().eq(ends.iter().copied().map(Some))
        })
        .await;
    }

    // The others leave, and the first one has not been disturbed.
    assert!(second_aggregator.stop().await.0.success());
    console.terminate();
    console.ended().await;
    let liked = api.client().click("user", "product", false, "2").await;
    api.client().wait_until_counted(&liked.receipt).await;
    assert!(!aggregator.process.log().contains("partitions revoked"), "its group was disturbed");
    assert_eq!(owned(&aggregator).await.len(), PARTITIONS as usize);
    for metric in ["likes_fences_total", "likes_dead_letters_total", "likes_stopped_partitions"] {
        assert_eq!(aggregator.metric(metric, "").await as u32, 0, "{metric}");
    }
    until("no lag", async || aggregator.metric("likes_consumer_lag_records", "").await as u32 == 0).await;
}
