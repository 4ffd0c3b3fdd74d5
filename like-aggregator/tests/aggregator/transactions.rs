//! A producer of many small transactions: every second offset of the log is a marker that no
//! consumer sees, and each rereads like a record that was lost on the way.

use std::time::{Duration, Instant};

use crate::common::{set_up, users};
use like_testkit::event;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tokio::task::JoinSet;

const PRODUCERS: usize = 20;
const TRANSACTIONS: usize = 1_000;

/// A share of the transactions, each with one like.
fn produce(topic: &str, n: usize) {
    let wait = Duration::from_secs(60);
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("transactional.id", format!("{topic}-{n}"))
        .set("linger.ms", "0")
        .create()
        .unwrap();
    producer.init_transactions(wait).unwrap();
    for user in users(&format!("u{n}"), TRANSACTIONS / PRODUCERS) {
        producer.begin_transaction().unwrap();
        let value = event("p", Some(&user), true).to_json();
        producer.send(BaseRecord::to(topic).key("p").payload(&value)).unwrap_or_else(|(error, _)| panic!("{error}"));
        producer.commit_transaction(wait).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_transactions_are_read_twice_and_not_once_per_record() {
    let (topic, system) = set_up(1).await;
    // Each commit takes its time; side by side they don't.
    let mut producers = JoinSet::new();
    for n in 0..PRODUCERS {
        let topic = topic.name.clone();
        producers.spawn_blocking(move || produce(&topic, n));
    }
    producers.join_all().await;
    let aggregator = system.aggregator(&[]).await;
    let start = Instant::now();
    system
        .number_becomes("SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count", TRANSACTIONS as i64)
        .await;
    let took = start.elapsed();
    let rereads = aggregator.process.log().matches("reading again").count();
    println!("{TRANSACTIONS} transactions in {took:?}, {rereads} rereads");
    assert!((1..=TRANSACTIONS / 20).contains(&rereads), "{rereads} rereads for {TRANSACTIONS} transactions");
}
