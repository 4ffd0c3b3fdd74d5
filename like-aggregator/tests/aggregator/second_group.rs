//! The drill "a second group reads the topic too", as docs/OPERATIONS.md has it: Kafka's own
//! consumer and a second like-aggregator read from the start while likes arrive and the first one
//! counts them; neither disturbs the other.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::{drill, passing_crowd};
use like_testkit::broker::java;
use like_testkit::process::TestProcess;
use like_testkit::{Click, Differences, TestDatabase, TestService, TestSystem, eventually};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

const PARTITIONS: i32 = 4;

async fn owned(aggregator: &TestService) -> usize {
    aggregator.series("likes_consumer_lag_records", "").await.len()
}

/// What a lag tool sees of a group, by partition.
fn committed(group: &str, topic: &str) -> Vec<Option<i64>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", like_testkit::kafka()).set("group.id", group);
    let client: BaseConsumer = config.create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(topic, 0, PARTITIONS - 1);
    let told = client.committed_offsets(asked, Duration::from_secs(30)).unwrap();
    let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    told.elements_for_topic(topic).iter().map(|partition| offset(partition.offset())).collect()
}

/// The ids of the events that it has written out so far.
fn events(console: &TestProcess) -> BTreeSet<String> {
    let log = console.log();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| Some(event["eventId"].as_str()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_group_reads_from_the_start_and_neither_disturbs_the_other() {
    let (topic, first) = TestSystem::with_topic(PARTITIONS).await;
    let aggregator = first.aggregator(&[]).await;
    let api = first.api(&[]).await;
    eventually("the first one owns all partitions", async || {
        (owned(&aggregator).await == PARTITIONS as usize).then_some(())
    })
    .await;
    let crowd = passing_crowd(10, &[api.client()]);
    crowd.clicks(300).await;

    // Kafka's own consumer.
    let (folder, look) = (tempfile::tempdir().unwrap(), format!("look-{}", topic.name));
    let words = drill::section("## Drill: a second group reads the topic");
    let words = words.lines().find_map(|line| line.trim().strip_prefix("kafka-console-consumer.sh ")).unwrap();
    let mut console = java(folder.path(), "org.apache.kafka.tools.consumer.ConsoleConsumer");
    console.args(words.split_whitespace().map(|word| match word {
        r#""$KAFKA_BOOTSTRAP_SERVERS""# => like_testkit::kafka(),
        "like-update-topic-v1" => topic.name.clone(),
        "look" => look.clone(),
        word => word.to_owned(),
    }));
    let mut console = TestProcess::start("kafka-console-consumer.sh", console);

    // A second count of the same log: a group and a database of its own.
    let mut second = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    let group = format!("second-{}", topic.name);
    second.set("KAFKA_GROUP_ID", &group);
    let commands = drill::commands("## Drill: a second group reads the topic", &[]);
    let commands: Vec<Vec<_>> = commands.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
    let [setup, run, audit] = &commands[..] else { panic!("{commands:?}") };
    assert!(second.command(setup).await.status.success());
    assert_eq!(run, &["run"]);
    let mut second_aggregator = second.aggregator(&[]).await;
    crowd.clicks(300).await;
    eventually("the second one has begun", async || {
        (second.number("SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count").await > 0).then_some(())
    })
    .await;
    eventually("so has Kafka's own", async || (!events(&console).is_empty()).then_some(())).await;
    // The first one's likes are counted meanwhile.
    let liked = api.client().click("somebody", "something", true, "1").await;
    api.client().wait_until_counted(&liked.receipt).await;
    crowd.clicks(300).await;

    let mut record = crowd.finish().await;
    let (user, product) = ("somebody".to_owned(), "something".to_owned());
    record.note(Click { user, product, liked: true, acknowledged: liked });
    let ends = topic.end_offsets();
    for system in [&first, &second] {
        system.folded(ends.iter().sum()).await;
        assert_eq!(record.compare_tables(system).await, Differences::default());
        let audited = system.command(audit).await;
        assert!(audited.status.success(), "{audited:?}");
    }
    let acknowledged: BTreeSet<_> = record.event_ids.iter().map(ToString::to_string).collect();
    eventually("Kafka's own has read all that was acknowledged", async || {
        events(&console).is_superset(&acknowledged).then_some(())
    })
    .await;
    let setting = |name| first.settings().into_iter().find(|(known, _)| known == name).unwrap().1;
    for group in [setting("KAFKA_GROUP_ID"), group, look] {
        eventually(&format!("a lag tool sees no lag of {group}"), async || {
            committed(&group, &topic.name).into_iter().eq(ends.iter().copied().map(Some)).then_some(())
        })
        .await;
    }

    // The others go; the first one has noticed nothing of it all.
    assert!(second_aggregator.stop().await.0.success());
    console.terminate();
    console.ended().await;
    let liked = api.client().click("somebody", "something", false, "2").await;
    api.client().wait_until_counted(&liked.receipt).await;
    assert!(!aggregator.process.log().contains("partitions revoked"), "its group was disturbed");
    assert_eq!(owned(&aggregator).await, PARTITIONS as usize);
    for metric in ["likes_fences_total", "likes_dead_letters_total", "likes_stopped_partitions"] {
        assert_eq!(aggregator.metric(metric, "").await as u32, 0, "{metric}");
    }
    eventually("no lag", async || {
        (aggregator.metric("likes_consumer_lag_records", "").await as u32 == 0).then_some(())
    })
    .await;
}
