//! The producer behind the publisher: a new one takes the place of one that has failed for good,
//! every event gets its true answer meanwhile, and the service isn't ready while it can't deliver.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use like_api::publish::outcome::{Position, PublishError};
use like_api::publish::producer::PRODUCER_WARM;
use like_testkit::eventually;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use crate::publisher::{Published, mock, publisher};

/// With nothing before it that is on its way: librdkafka gives the producer up.
const OUT_OF_ORDER: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
/// No producer gets its id.
const NO_IDS: [RDKafkaRespErr; 1000] = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 1000];

async fn not_ready(it: &Published, why: &str) {
    let waiting = || it.health.unready().get(PRODUCER_WARM).is_some_and(|reason| reason.contains(why));
    eventually(&format!("not ready: {why}"), async || waiting().then_some(())).await;
}

/// What stands in a partition's log.
fn log(brokers: &str, partition: i32) -> Vec<String> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "none").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let (_, end) = consumer.fetch_watermarks("t", partition, Duration::from_secs(30)).unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset("t", partition, Offset::Beginning).unwrap();
    consumer.assign(&place).unwrap();
    let next = || consumer.poll(Duration::from_secs(30)).expect("a record within 30 s").expect("a record");
    (0..end).map(|_| String::from_utf8(next().payload().unwrap().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn fatal_error_settles_events_truly() {
    let mock = mock("t");
    let brokers = mock.bootstrap_servers();
    // A request for each: some are on their way, the others wait for those.
    let it = publisher(&brokers, "t", &[("batch.num.messages", "1")]);
    it.warm().await;
    mock.broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    mock.request_errors(RDKafkaApiKey::Produce, &[OUT_OF_ORDER]);
    mock.request_errors(RDKafkaApiKey::InitProducerId, &NO_IDS);
    let publish = async |n: usize| it.publisher.publish("p1", format!("event {n}").as_bytes(), None).await;
    let outcomes = join_all((0..20).map(publish)).await;

    not_ready(&it, "its id").await;
    mock.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    let log = log(&brokers, 0);
    let (mut unknown, mut rejected) = (0, 0);
    for (n, outcome) in outcomes.iter().enumerate() {
        let event = format!("event {n}");
        match outcome {
            Ok(position) => assert_eq!(log[position.offset as usize], event),
            Err(PublishError::NotWritten(why)) => {
                assert!(!log.contains(&event), "{event}: {why}");
                rejected += 1;
            }
            Err(PublishError::PerhapsWritten(_)) => unknown += 1,
            Err(error) => panic!("{event}: {error}"),
        }
    }
    assert!(unknown > 0 && rejected > 0, "{outcomes:?}");
    assert_eq!((it.counted("unknown"), it.counted("rejected"), it.counted("queued")), (unknown, rejected, 0));

    mock.clear_request_errors(RDKafkaApiKey::InitProducerId);
    it.warm().await;
    let next = it.publisher.publish("p1", b"next", None).await;
    assert_eq!(next, Ok(Position { partition: 0, offset: log.len() as i64 }));
}

#[tokio::test]
async fn new_producer_works_before_old_is_done() {
    let mock = MockCluster::new(2).unwrap();
    mock.create_topic("t", 2, 1).unwrap();
    mock.partition_leader("t", 0, Some(1)).unwrap();
    mock.partition_leader("t", 1, Some(2)).unwrap();
    let it = publisher(&mock.bootstrap_servers(), "t", &[]);
    it.warm().await;
    let mut keys = [None, None];
    for product in 0.. {
        let key = format!("p{product}");
        let partition = it.publisher.publish(&key, b"where?", None).await.unwrap().partition;
        keys[partition as usize] = Some(key);
        if keys.iter().all(Option::is_some) {
            break;
        }
    }
    let [stuck_key, key] = keys.map(Option::unwrap);

    // That the one is on its way before the other fails can't be had for certain: tried until it was so.
    for _ in 0..10 {
        // With this broker nobody gets any further, and no new producer gets through to it.
        mock.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
        let (publisher, of_stuck) = (Arc::clone(&it.publisher), stuck_key.clone());
        let stuck = tokio::spawn(async move { publisher.publish(&of_stuck, b"stuck", None).await });
        it.publisher.publish(&key, b"before", None).await.unwrap();
        // For each of them, whichever comes first.
        mock.request_errors(RDKafkaApiKey::Produce, &[OUT_OF_ORDER; 2]);
        let failed = it.publisher.publish(&key, b"failed", None).await;
        mock.clear_request_errors(RDKafkaApiKey::Produce);
        assert!(matches!(failed, Err(PublishError::PerhapsWritten(_))), "{failed:?}");
        eventually("the new one takes likes", async || it.publisher.publish(&key, b"after", None).await.ok()).await;
        let overtaken = !stuck.is_finished();
        let outcome = stuck.await.unwrap();
        if overtaken {
            let waited = matches!(&outcome, Err(PublishError::PerhapsWritten(why)) if why.contains("timed out"));
            assert!(waited, "{outcome:?}");
            return;
        }
        mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
        eventually("both brokers answer", async || it.publisher.publish(&stuck_key, b"again", None).await.ok()).await;
    }
    panic!("no like was ever taken before the failed producer had all its answers");
}

#[tokio::test]
async fn readiness_needs_an_answering_broker() {
    let mock = mock("t");
    let it = publisher(&mock.bootstrap_servers(), "t", &[]);
    it.warm().await;
    let takes_likes = async || {
        it.warm().await;
        // The partition's leader may need a new connection.
        eventually("a like is taken", async || it.publisher.publish("p1", b"1", None).await.ok()).await;
    };
    takes_likes().await;

    mock.broker_down(1).unwrap();
    not_ready(&it, "Kafka doesn't describe topic t").await;
    let outcome = it.publisher.publish("p1", b"1", None).await;
    assert!(matches!(outcome, Err(PublishError::NotWritten(_))), "{outcome:?}");
    mock.broker_up(1).unwrap();
    takes_likes().await;

    // It takes what it is sent and says nothing.
    mock.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    not_ready(&it, "Kafka doesn't describe topic t").await;
    mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    takes_likes().await;

    mock.partition_leader("t", 0, None).unwrap();
    not_ready(&it, "no partition has a leader").await;
    mock.partition_leader("t", 0, Some(1)).unwrap();
    takes_likes().await;
}
