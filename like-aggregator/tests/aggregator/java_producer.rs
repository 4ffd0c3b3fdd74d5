//! Java producers write by the same contract: their events are counted with every compression codec,
//! and keys go to the same partitions as by like-api.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use like_testkit::broker::java;
use like_testkit::process::run_to_end;
use like_testkit::{TestSystem, TestTopic, event};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

const PARTITIONS: i32 = 8;
const PRODUCTS: usize = 50;
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Publishes a like by `user` of every product with Java's own producer.
async fn publish_from_java(topic: &str, codec: &str, user: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for n in 0..PRODUCTS {
        let event = event(&format!("product-{n}"), Some(user), true);
        writeln!(lines, "{}\t{}", event.product_id, String::from_utf8(event.to_json()).unwrap()).unwrap();
    }
    let input = folder.path().join("lines");
    std::fs::write(&input, lines).unwrap();

    // run_to_end gives a program no standard input.
    let producer = java(folder.path(), "org.apache.kafka.tools.ConsoleProducer");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#"exec "$@" <"$0""#]).arg(&input).arg(producer.get_program()).args(producer.get_args());
    shell.args(["--bootstrap-server", &like_testkit::kafka(), "--topic", topic, "--compression-codec", codec]);
    shell.args(["--reader-property", "parse.key=true", "--command-property", "linger.ms=200"]);
    let output = run_to_end(shell, Duration::from_secs(60)).await;
    assert!(output.status.success(), "{codec}: {output:?}");
}

/// Per key, the partitions on which it is found.
fn partitions_by_key(topic: &TestTopic) -> BTreeMap<Vec<u8>, Vec<i32>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("group.id", &topic.name)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..topic.partitions {
        all.add_partition_offset(&topic.name, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut found: BTreeMap<Vec<u8>, Vec<i32>> = BTreeMap::new();
    for _ in 0..topic.end_offsets().iter().sum::<i64>() {
        let record = consumer.poll(Duration::from_secs(30)).expect("a record within 30 s").unwrap();
        let partitions = found.entry(record.key().unwrap().to_vec()).or_default();
        if !partitions.contains(&record.partition()) {
            partitions.push(record.partition());
        }
    }
    found
}

#[tokio::test]
async fn java_events_of_all_codecs_count() {
    let (topic, system) = TestSystem::with_topic(PARTITIONS).await;
    let _aggregator = system.aggregator(&[]).await;

    for codec in CODECS {
        publish_from_java(&topic.name, codec, &format!("java-{codec}")).await;
    }
    for n in 0..PRODUCTS {
        topic.publish_event(&event(&format!("product-{n}"), Some("rust"), true));
    }
    topic.flush();

    let likers = 1 + CODECS.len() as i64;
    system.folded(likers * PRODUCTS as i64).await;
    let products = PRODUCTS as i64;
    assert_eq!(system.number("SELECT count(*) FROM product_like_count").await, products);
    assert_eq!(system.number("SELECT min(like_count) FROM product_like_count").await, likers);
    assert_eq!(system.number("SELECT max(like_count) FROM product_like_count").await, likers);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 0);

    let partitions = partitions_by_key(&topic);
    assert_eq!(partitions.len(), PRODUCTS);
    assert!(partitions.values().all(|on| on.len() == 1), "Java and Rust disagree: {partitions:?}");
}
