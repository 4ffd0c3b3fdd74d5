//! Records that compress well: what a fetch brings is far larger in memory than on the wire.

use std::time::Duration;

use crate::common::set_up;
use like_events::topic::MAX_BATCH_BYTES;
use like_testkit::{TestService, TestTopic, event};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer, ThreadedProducer};

/// A producer's settings: zstd, and batches of 1 MB before compression.
fn compressing() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", like_testkit::kafka()).set("compression.type", "zstd").set("linger.ms", "50");
    config
}

/// A like in this many bytes, most of them spaces.
fn padded(user: usize, bytes: usize) -> Vec<u8> {
    let mut value = event("p", Some(&format!("u{user}")), true).to_json();
    value.resize(bytes, b' ');
    value
}

fn publish(topic: &TestTopic, number: usize, bytes: usize) {
    let producer: ThreadedProducer<DefaultProducerContext> = compressing().create().unwrap();
    for user in 0..number {
        let value = padded(user, bytes);
        let mut record = BaseRecord::to(&topic.name).partition(0).key("p").payload(&value);
        while let Err((_, again)) = producer.send(record) {
            std::thread::yield_now();
            record = again;
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// The most memory that it has had so far, in MiB.
fn peak(aggregator: &TestService) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", aggregator.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test]
async fn compressed_records_take_bounded_memory() {
    // Both fit in one fetch of 1 MiB. Before, they took 611 and 889 MiB.
    for (number, bytes, bound) in [(40_000, 15_000, 200), (1_000, 900_000, 450)] {
        let (topic, system) = set_up(1).await;
        publish(&topic, number, bytes);
        let aggregator = system.aggregator(&[]).await;
        system.folded(number as i64).await;
        let peak = peak(&aggregator);
        println!("{number} records of {bytes} bytes: {peak} MiB");
        assert!(peak < bound, "{number} records of {bytes} bytes: {peak} MiB");
    }
}

#[tokio::test]
async fn uncompressed_topic_refuses_large_batches() {
    // A batch is judged as it is stored.
    let (topic, _system) = set_up(1).await;
    let limit = MAX_BATCH_BYTES.to_string();
    let producer: FutureProducer = compressing().create().unwrap();
    for (compression, accepted) in [("producer", true), ("uncompressed", false)] {
        topic.configure(&[("compression.type", compression), ("max.message.bytes", &limit)]).await;
        let value = padded(0, 900_000);
        let sent = producer.send(FutureRecord::to(&topic.name).key("p").payload(&value), Duration::ZERO).await;
        let refused = KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge);
        assert_eq!(sent.err().map(|(error, _)| error), (!accepted).then_some(refused), "{compression}");
    }
}
