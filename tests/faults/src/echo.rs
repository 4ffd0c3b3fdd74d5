//! A producer that repeats everything: it publishes each record of a topic once more at the topic's end, as a replay
//! tool or a restarted bridge does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use like_testkit::reader;
use rdkafka::client::ClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::message::{DeliveryResult, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Message, Offset};
use tokio::task::JoinHandle;

/// Marks a repeat.
const REPEAT: &str = "repeat";
const WAIT: Duration = Duration::from_secs(10);
/// How long repeating the rest may take.
const LIMIT: Duration = Duration::from_secs(300);

/// A running echo.
pub struct Echo {
    enough: Arc<AtomicBool>,
    repeating: JoinHandle<Repeated>,
}

/// The result of an echo.
pub struct Repeated {
    /// How many records were repeated.
    pub records: usize,
    /// The end offset of each partition.
    pub ends: Vec<i64>,
}

struct Deliveries(Arc<AtomicUsize>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(usize::from(result.is_ok()), Ordering::Relaxed);
    }
}

impl Echo {
    /// Repeats every record of the topic, from its start.
    pub fn start(topic: &str, partitions: i32) -> Self {
        let (enough, topic) = (Arc::new(AtomicBool::new(false)), topic.to_owned());
        let stop = Arc::clone(&enough);
        Self { enough, repeating: tokio::task::spawn_blocking(move || repeat(&topic, partitions, &stop)) }
    }

    /// Repeats everything that is in the topic now, then ends.
    pub async fn finish(self) -> Repeated {
        self.enough.store(true, Ordering::Relaxed);
        self.repeating.await.expect("every record is repeated")
    }
}

fn repeat(topic: &str, partitions: i32, enough: &AtomicBool) -> Repeated {
    let delivered = Arc::<AtomicUsize>::default();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", like_testkit::kafka()).set("enable.idempotence", "true").set("linger.ms", "5");
    let producer: ThreadedProducer<_> =
        config.create_with_context(Deliveries(Arc::clone(&delivered))).expect("producer");
    let consumer = reader(&like_testkit::kafka(), topic, 0..partitions, Offset::Beginning);
    let end = |partition| consumer.fetch_watermarks(topic, partition, WAIT).expect("watermarks").1;

    let (mut records, mut next) = (0, vec![0; partitions as usize]);
    let mut until: Option<(Instant, Vec<i64>)> = None;
    loop {
        if let Some((since, ends)) = &until {
            if next.iter().zip(ends).all(|(next, end)| next >= end) {
                break;
            }
            assert!(since.elapsed() < LIMIT, "repeated up to {next:?} of {ends:?}");
        } else if enough.load(Ordering::Relaxed) {
            until = Some((Instant::now(), (0..partitions).map(end).collect()));
        }
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else { continue };
        next[record.partition() as usize] = record.offset() + 1;
        if record.headers().is_some_and(|headers| headers.iter().any(|header| header.key == REPEAT)) {
            continue;
        }
        let header = OwnedHeaders::new().insert(Header { key: REPEAT, value: None::<&[u8]> });
        let mut again = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition()).headers(header);
        (again.key, again.payload) = (record.key(), record.payload());
        while let Err((error, same)) = producer.send(again) {
            assert!(error.to_string().contains("QueueFull"), "{error}");
            again = same;
            std::thread::sleep(Duration::from_millis(5));
        }
        records += 1;
    }
    producer.flush(LIMIT).expect("repeats are acknowledged");
    assert_eq!(delivered.load(Ordering::Relaxed), records, "repeats that were acknowledged");
    Repeated { records, ends: (0..partitions).map(end).collect() }
}
