//! Another producer: delta events, which like-api doesn't publish. Each counts on its own, so a doubled one shows at
//! once.

use std::time::Duration;

use like_events::LikeEvent;
use like_events::topic::PARTITIONER;
use like_testkit::{Record, event};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};

/// Publishes `count` delta events for `product`, each `times` times with the same id, and waits for all
/// acknowledgements. Every fourth is a -1.
pub async fn publish(kafka: &str, topic: &str, product: &str, count: usize, times: usize) -> Record {
    let events = events(product, count);
    for _ in 0..times {
        send(kafka, topic, &events).await;
    }
    record(&events)
}

/// Creates `count` delta events for `product`. Every fourth is a -1.
pub fn events(product: &str, count: usize) -> Vec<LikeEvent> {
    (0..count).map(|n| event(product, None, n % 4 != 3)).collect()
}

/// The record of these events, each counted once.
pub fn record(events: &[LikeEvent]) -> Record {
    let mut record = Record::default();
    for event in events {
        record.event_ids.insert(event.event_id.to_string().parse().expect("a UUID"));
        let sum = record.deltas.entry(event.product_id.as_str().to_owned()).or_default();
        *sum += if event.liked { 1 } else { -1 };
    }
    record
}

/// Publishes the events once and waits for all acknowledgements.
pub async fn send(kafka: &str, topic: &str, events: &[LikeEvent]) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("enable.idempotence", "true")
        .set("partitioner", PARTITIONER)
        .set("linger.ms", "5")
        .create()
        .expect("producer");
    let mut deliveries = Vec::new();
    for event in events {
        let value = event.to_json();
        let mut next = FutureRecord::to(topic).key(event.product_id.as_str()).payload(&value);
        loop {
            match producer.send_result(next) {
                Ok(delivery) => break deliveries.push(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => next = again,
                Err((error, _)) => panic!("a delta event: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    for delivery in deliveries {
        delivery.await.expect("the producer lives").expect("a delta event is published");
    }
}
