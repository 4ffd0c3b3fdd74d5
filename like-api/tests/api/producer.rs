//! Replacement of a producer after a fatal error: every event gets its true result meanwhile, and the
//! service isn't ready while it can't deliver.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use like_api::publish::outcome::PublishError;
use like_testkit::eventually;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use crate::publisher::{mock, publisher};

/// For the oldest request in flight: a fatal error of the producer.
const OUT_OF_ORDER: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
/// No producer gets an id.
const NO_IDS: [RDKafkaRespErr; 1000] = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS; 1000];

/// The values in a partition's log.
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
    // One request per event: some are in flight, the others wait for those.
    let it = publisher(&brokers, "t", &[("batch.num.messages", "1")]);
    it.warm().await;
    mock.broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let outcomes = it.load_both(|n| format!("event {n}")).await;
    // For both producers.
    mock.request_errors(RDKafkaApiKey::Produce, &[OUT_OF_ORDER; 1000]);
    mock.request_errors(RDKafkaApiKey::InitProducerId, &NO_IDS);
    let outcomes: Vec<_> = join_all(outcomes).await.into_iter().map(Result::unwrap).collect();

    it.not_ready("its id").await;
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
    assert_eq!((it.counted("unknown"), it.counted("rejected"), it.queued("")), (unknown, rejected, 0));

    mock.clear_request_errors(RDKafkaApiKey::Produce);
    mock.clear_request_errors(RDKafkaApiKey::InitProducerId);
    it.warm().await;
    let next = it.publisher.publish("p1", b"next", None).await;
    assert_eq!(next.map(|position| position.offset), Ok(log.len() as i64));
    // Both were replaced.
    mock.broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let outcomes = it.load_both(|n| n.to_string()).await;
    mock.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    assert!(join_all(outcomes).await.into_iter().all(|outcome| outcome.unwrap().is_ok()));
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

    // Whether one event is in flight before the other fails depends on timing: repeated until it was.
    for _ in 0..10 {
        // This broker no longer answers, neither the old producer nor a new one.
        mock.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
        let (publisher, of_stuck) = (Arc::clone(&it.publisher), stuck_key.clone());
        let stuck = tokio::spawn(async move { publisher.publish(&of_stuck, b"stuck", None).await });
        it.publisher.publish(&key, b"before", None).await.unwrap();
        // One for each event, whichever comes first.
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
    panic!("the new producer never delivered before the failed one had settled all its events");
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
    it.not_ready("Kafka doesn't describe topic t").await;
    let outcome = it.publisher.publish("p1", b"1", None).await;
    assert!(matches!(outcome, Err(PublishError::NotWritten(_))), "{outcome:?}");
    mock.broker_up(1).unwrap();
    takes_likes().await;

    // The broker accepts requests and doesn't answer.
    mock.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    it.not_ready("Kafka doesn't describe topic t").await;
    mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    takes_likes().await;

    mock.partition_leader("t", 0, None).unwrap();
    it.not_ready("no partition has a leader").await;
    mock.partition_leader("t", 0, Some(1)).unwrap();
    takes_likes().await;
}
