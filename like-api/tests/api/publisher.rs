//! The publisher's result for an event, on the real broker and on brokers that fail.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use like_api::metrics::Metrics;
use like_api::publish::outcome::{Position, PublishError};
use like_api::publish::producer::{PRODUCER_WARM, Publisher};
use like_common::health::Health;
use like_testkit::{TestTopic, until};
use prometheus::Registry;
use prometheus::proto::Metric;
use rdkafka::ClientConfig;
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::task::JoinHandle;

use crate::common::record_at;

/// No broker is there.
pub const NO_BROKER: &str = "127.0.0.1:1";

pub struct Published {
    pub publisher: Arc<Publisher>,
    pub health: Health,
    registry: Registry,
}

/// A publisher that is kept running, and what it reports.
pub fn publisher(brokers: &str, topic: &str, properties: &[(&str, &str)]) -> Published {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    for (name, value) in properties {
        config.set(*name, *value);
    }
    let publisher = Arc::new(Publisher::new(config, topic, metrics.publishing).unwrap());
    let health = Health::waiting_for(&[PRODUCER_WARM]);
    let (running, reported) = (Arc::clone(&publisher), health.clone());
    tokio::spawn(async move { running.keep_running(&reported).await });
    Published { publisher, health, registry }
}

impl Published {
    pub async fn warm(&self) {
        until("warm", async || self.health.is_ready()).await;
    }

    pub async fn not_ready(&self, why: &str) {
        let waiting = async || self.health.unready().get(PRODUCER_WARM).is_some_and(|reason| reason.contains(why));
        until(&format!("not ready: {why}"), waiting).await;
    }

    /// The number of events with this outcome.
    pub fn counted(&self, outcome: &str) -> u64 {
        self.sum("messaging_client_sent_messages_total", outcome)
    }

    /// The number of events without one yet, at this producer; at both, if it is empty.
    pub fn queued(&self, producer: &str) -> u64 {
        self.sum("likes_producer_queued_events", producer)
    }

    /// Publishes events with the values `value(n)` until both producers hold some, which takes answers that are slow or
    /// linger. Returns the outcomes to come.
    pub async fn load_both(&self, value: impl Fn(usize) -> String) -> Vec<JoinHandle<Result<Position, PublishError>>> {
        let mut outcomes = Vec::new();
        until("both producers hold events", async || {
            for _ in 0..100 {
                let (publisher, value) = (Arc::clone(&self.publisher), value(outcomes.len()));
                outcomes.push(tokio::spawn(async move { publisher.publish("p1", value.as_bytes(), None).await }));
            }
            self.queued("immediate") > 0 && self.queued("gathering") > 0
        })
        .await;
        outcomes
    }

    /// The sum of a metric's series with this label value; of all, if it is empty.
    fn sum(&self, metric: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == metric).unwrap();
        let has_label = |m: &&Metric| label.is_empty() || m.get_label().iter().any(|pair| pair.value() == label);
        let values = family.get_metric().iter().filter(has_label);
        values.map(|m| m.get_counter().get_value() + m.get_gauge().get_value()).sum::<f64>() as u64
    }
}

/// A broker in this process, with one topic of one partition.
pub fn mock(topic: &str) -> MockCluster<'static, impl rdkafka::ClientContext> {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(topic, 1, 1).unwrap();
    mock
}

#[tokio::test]
async fn real_broker_returns_positions() {
    let topic = TestTopic::create(1).await;
    let it = publisher(&like_testkit::kafka(), &topic.name, &[]);
    it.warm().await;
    assert_eq!(topic.end_offsets(), [0], "no record is sent to warm up");
    for offset in 0..3 {
        let value = format!("event {offset}");
        let position = it.publisher.publish("p1", value.as_bytes(), None).await;
        let record = record_at(&topic.name, 0, offset);
        let time = record.timestamp().to_millis().unwrap();
        assert_eq!(position, Ok(Position { partition: 0, offset, time }));
        assert_eq!(record.payload().unwrap(), value.as_bytes());
    }
    assert_eq!((it.counted("acknowledged"), it.queued("")), (3, 0));
    // One after the other, they are not sent together.
    assert_eq!(it.sum("likes_producer_batches_total", ""), 3);
}

#[tokio::test]
async fn producer_is_warm_once_it_has_its_id() {
    let mock = mock("t");
    let loading = RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    mock.request_errors(RDKafkaApiKey::InitProducerId, &[loading; 1000]);
    let it = publisher(&mock.bootstrap_servers(), "t", &[]);
    it.not_ready("its id").await;
    mock.clear_request_errors(RDKafkaApiKey::InitProducerId);
    it.warm().await;
}

#[tokio::test]
async fn full_queue_refuses_at_once() {
    let it = publisher(NO_BROKER, "t", &[("queue.buffering.max.messages", "1")]);
    let (first, second) = tokio::join!(it.publisher.publish("p1", b"1", None), it.publisher.publish("p1", b"2", None));
    assert_eq!(second, Err(PublishError::QueueFull));
    assert!(matches!(first, Err(PublishError::NotWritten(_))), "{first:?}");
    assert_eq!((it.counted("queue_full"), it.counted("rejected"), it.queued("")), (1, 1, 0));
}

#[tokio::test]
async fn load_decides_whether_likes_linger() {
    let mock = mock("t");
    let it = publisher(&mock.bootstrap_servers(), "t", &[]);
    it.warm().await;
    let slow = |by| mock.broker_round_trip_time(-1, by).unwrap();
    for _ in 0..2 {
        slow(Duration::from_secs(1));
        let first = it.publisher.publish("p1", b"first", None);
        let sent = until("it is sent at once", async || it.queued("immediate") == 1 && it.queued("gathering") == 0);
        assert!(tokio::join!(first, sent).0.is_ok());
        let outcomes = join_all(it.load_both(|n| n.to_string()).await);
        slow(Duration::ZERO);
        assert!(outcomes.await.into_iter().all(|outcome| outcome.unwrap().is_ok()));
        // Few are in flight again.
        until("a like is sent at once", async || {
            let publish = it.publisher.publish("p1", b"again", None);
            let at_once = async { it.queued("immediate") == 1 };
            let (outcome, at_once) = tokio::join!(publish, at_once);
            outcome.is_ok() && at_once
        })
        .await;
    }
}

#[tokio::test]
async fn event_without_answer_is_perhaps_written() {
    let mock = mock("t");
    let it = publisher(&mock.bootstrap_servers(), "t", &[]);
    it.warm().await;
    // Each answer takes longer than an event's timeout.
    mock.broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let outcome = it.publisher.publish("p1", b"1", None).await;
    assert!(matches!(outcome, Err(PublishError::PerhapsWritten(_))), "{outcome:?}");
    assert_eq!((it.counted("unknown"), it.queued("")), (1, 0));
}

#[tokio::test]
async fn refused_event_is_certainly_not_written() {
    let mock = mock("t");
    let it = publisher(&mock.bootstrap_servers(), "t", &[]);
    it.warm().await;
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    // Its batch was too large, for all that is known of the topic.
    let outcome = it.publisher.publish("p1", b"1", None).await;
    assert!(matches!(outcome, Err(PublishError::NotWritten(_))), "{outcome:?}");
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    let outcome = it.publisher.publish("p1", b"1", None).await;
    assert!(matches!(outcome, Err(PublishError::NotWritten(_))), "{outcome:?}");
    assert_eq!(it.counted("rejected"), 2);
}

#[tokio::test]
async fn too_large_event_is_not_published() {
    let topic = TestTopic::create(1).await;
    let it = publisher(&like_testkit::kafka(), &topic.name, &[]);
    let largest = vec![b'x'; like_events::topic::MAX_VALUE_BYTES];
    assert!(it.publisher.publish("p1", &largest, None).await.is_ok());
    let larger = [largest, vec![b'x']].concat();
    assert_eq!(it.publisher.publish("p1", &larger, None).await, Err(PublishError::TooLarge));
    // librdkafka refuses a record above its own limit.
    let small = publisher(&like_testkit::kafka(), &topic.name, &[("message.max.bytes", "1000")]);
    assert_eq!(small.publisher.publish("p1", &[b'x'; 2000], None).await, Err(PublishError::TooLarge));
    assert_eq!(topic.end_offsets(), [1]);
}

#[tokio::test]
async fn large_event_fails_no_neighbour() {
    let topic = TestTopic::create(1).await;
    topic.configure(&[("max.message.bytes", "3000")]).await;
    let it = publisher(&like_testkit::kafka(), &topic.name, &[]);
    it.publisher.fit_batches(3000);
    it.warm().await;
    // Random, so that no compression makes it fit.
    let large: String = (0..120).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let small: Vec<String> = (0..200).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let publish = async |value: &str| it.publisher.publish("p1", value.as_bytes(), None).await;
    let neighbours = join_all(small.iter().map(|value| publish(value)));
    let (outcome, neighbours) = tokio::join!(publish(&large), neighbours);
    assert_eq!(outcome, Err(PublishError::TooLarge));
    let failed = neighbours.iter().filter(|outcome| outcome.is_err()).count();
    assert_eq!(failed, 0, "{neighbours:?}");
}

#[tokio::test]
async fn events_of_one_call_stay_in_order() {
    let topic = TestTopic::create(1).await;
    let it = publisher(&like_testkit::kafka(), &topic.name, &[]);
    it.warm().await;
    // Many calls at once, so that events begin to be gathered by the other producer meanwhile.
    let publish = async |call: usize| {
        let values: Vec<_> = (0..50).map(|n| format!("{call} {n}")).collect();
        let events: Vec<_> = values.iter().map(|value| ("p1", value.as_bytes())).collect();
        it.publisher.publish_all(events.into_iter(), None).await
    };
    for outcomes in join_all((0..40).map(publish)).await {
        let offsets: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().offset).collect();
        assert!(offsets.len() == 50 && offsets.is_sorted(), "{offsets:?}");
    }
    assert_eq!((topic.end_offsets(), it.counted("acknowledged")), (vec![2_000], 2_000));
}
