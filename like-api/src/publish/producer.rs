//! Publishing an event and telling truly what became of it: in the log at this position,
//! certainly not written, or perhaps written. An event is handed to the producer once and never
//! again: whoever asked decides about a retry. What HTTP makes of it is error.rs's.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use like_common::backoff::Backoff;
use like_common::health::Health;
use like_events::topic::{MAX_VALUE_BYTES, PARTITIONER};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::sync::{Notify, oneshot};
use tracing::{error, info, warn};

use super::delivery::{Deliveries, LogEnds, Pending};
use super::outcome::{Position, PublishError};
use crate::metrics::Publishing;

/// Condition of readiness: Kafka answers the producer, which has its producer id, so that the first
/// like doesn't wait half a second for it.
pub const PRODUCER_WARM: &str = "producer";

/// Where properties are free, what they are unless `KAFKA_CONFIG_FILE` says otherwise.
/// librdkafka sends a request per partition, and each costs as much as a like does, here and at the
/// broker. An event waits 10 ms for others of its partition: at 15,000 a second that is a third of
/// the processor time less than with 1 ms, and nobody sees it.
/// The queue holds what a broker takes in well under a second: a longer one would only let
/// requests wait in it that are better refused at once.
/// After an outage likes are taken as soon as the broker is there, and not some ten seconds later.
const DEFAULTS: [(&str, &str, &[&str]); 4] = [
    ("linger.ms", "10", &["linger.ms", "queue.buffering.max.ms"]),
    ("compression.type", "lz4", &["compression.type", "compression.codec"]),
    ("queue.buffering.max.messages", "20000", &["queue.buffering.max.messages"]),
    ("reconnect.backoff.max.ms", "1000", &["reconnect.backoff.max.ms"]),
];

/// What the contract fixes. Every request gets its report within `message.timeout.ms` and the
/// second in which librdkafka looks for it, and nothing lands long after its 504. librdkafka
/// keeps `max.in.flight` at the idempotent producer's five by itself.
const FIXED: [(&str, &str); 6] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", PARTITIONER),
    ("message.timeout.ms", "5000"),
    // The only way to learn when a producer has its id: read until then and skipped afterwards,
    // when they can't be turned off (0.5 % of a core at 50 ms with 32 partitions).
    ("statistics.interval.ms", "200"),
    // Where the log ends, and not where an open transaction of some other producer begins.
    ("isolation.level", "read_uncommitted"),
];

/// How often delivery reports are looked for while events are on their way. Reports come per
/// partition; a thread that waits for them is woken by each, and wakes the runtime each time.
/// Looking for them together halves the context switches, and costs a millisecond.
const REPORTS_EVERY: Duration = Duration::from_millis(1);
/// And while none is, for the sake of errors and statistics.
const IDLE_EVERY: Duration = Duration::from_millis(100);
/// How often Kafka is asked for the topic, and the longest wait for an answer: whether likes can be
/// delivered must be known while none comes, since none is sent to a service that isn't ready.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const WATERMARK_TIMEOUT: Duration = Duration::from_secs(2);
/// By then a failed producer has settled everything it still held.
const SETTLED_AFTER: Duration = Duration::from_secs(7);
/// How many calls may wait for a watermark at once: each holds a thread.
const WATERMARK_CALLS: usize = 8;

type Producer = BaseProducer<Deliveries>;

/// Publishes to one topic.
pub struct Publisher {
    config: ClientConfig,
    topic: String,
    metrics: Publishing,
    log_ends: Arc<LogEnds>,
    watermark_calls: tokio::sync::Semaphore,
    /// Replaced after a fatal error. Read-locked while an event is handed over (2 us), so that
    /// none is handed to a producer that was replaced.
    current: RwLock<Arc<Producer>>,
    handed_over: Notify,
}

impl Publisher {
    /// `config` has the brokers and what else is needed to reach them. Connects in the
    /// background; run [`Publisher::keep_running`] beside it.
    pub fn new(mut config: ClientConfig, topic: &str, metrics: Publishing) -> anyhow::Result<Self> {
        for (property, value, spellings) in DEFAULTS {
            if spellings.iter().all(|spelling| config.get(spelling).is_none()) {
                config.set(property, value);
            }
        }
        for (property, value) in FIXED {
            config.set(property, value);
        }
        let log_ends = Arc::new(LogEnds::default());
        let producer = create(&config, &log_ends, &metrics)?;
        Ok(Self {
            config,
            topic: topic.to_owned(),
            metrics,
            log_ends,
            watermark_calls: tokio::sync::Semaphore::new(WATERMARK_CALLS),
            current: RwLock::new(Arc::new(producer)),
            handed_over: Notify::new(),
        })
    }

    /// Where events go.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Publishes one event and waits for what becomes of it, at most some six seconds. Dropping
    /// the future doesn't take the event back.
    pub async fn publish(
        &self,
        key: &str,
        value: &[u8],
        headers: Option<OwnedHeaders>,
    ) -> Result<Position, PublishError> {
        let settled = self.hand_over(key, value, headers).inspect_err(|error| self.metrics.count(Err(error)))?;
        // The producer settles everything that it took, its own end included.
        settled.await.unwrap_or_else(|_| Err(PublishError::PerhapsWritten("the producer gave no report".to_owned())))
    }

    fn hand_over(
        &self,
        key: &str,
        value: &[u8],
        headers: Option<OwnedHeaders>,
    ) -> Result<oneshot::Receiver<super::delivery::Settled>, PublishError> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(PublishError::TooLarge);
        }
        let (settle, settled) = oneshot::channel();
        let pending = Box::new(Pending { settle, since: Instant::now() });
        let mut record = BaseRecord::with_opaque_to(&self.topic, pending).key(key).payload(value);
        record.headers = headers;
        let producer = self.current.read().unwrap_or_else(PoisonError::into_inner);
        self.metrics.in_flight.inc();
        match producer.send(record) {
            Ok(()) => {
                self.handed_over.notify_one();
                Ok(settled)
            }
            Err((error, _)) => {
                self.metrics.in_flight.dec();
                Err(match error {
                    KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => PublishError::QueueFull,
                    KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge) => PublishError::TooLarge,
                    error => PublishError::NotWritten(error.to_string()),
                })
            }
        }
    }

    /// Settles events, reports [`PRODUCER_WARM`], and puts a new producer in the place of each that
    /// fails for good. Never ends.
    pub async fn keep_running(&self, health: &Health) -> Infallible {
        tokio::select! {
            never = self.settle() => never,
            never = self.keep_producing(health) => never,
        }
    }

    /// Takes the producer's reports: an event is settled in here. Those of a producer that was
    /// replaced are taken by whoever flushes it.
    async fn settle(&self) -> Infallible {
        loop {
            if self.metrics.in_flight.get() > 0 {
                tokio::time::sleep(REPORTS_EVERY).await;
            } else {
                let _ = tokio::time::timeout(IDLE_EVERY, self.handed_over.notified()).await;
            }
            // The lock and not a clone: the last one to let go of a producer waits for its threads.
            let producer = self.current.read().unwrap_or_else(PoisonError::into_inner);
            producer.context().take_reports(|| producer.poll(Duration::ZERO));
        }
    }

    async fn keep_producing(&self, health: &Health) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let producer = self.current();
            let fatal = tokio::select! {
                fatal = super::delivery::fatal_error(&producer) => fatal,
                never = self.watch(&producer, health, &mut backoff) => match never {},
            };
            error!(fatal, "the producer has failed for good; a new one takes its place");
            health.unmet(PRODUCER_WARM, format!("the producer has failed: {fatal}"));
            drop(producer);
            self.replace();
            // After the exchange: a failure that comes back at once must not spin.
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    fn current(&self) -> Arc<Producer> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self) {
        match create(&self.config, &self.log_ends, &self.metrics) {
            Ok(new) => {
                let new = Arc::new(new);
                let old = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), new);
                // What the old one still holds is settled by its own thread; then it may go, which
                // blocks. Nobody waits for that.
                tokio::task::spawn_blocking(move || drop(old.flush(SETTLED_AFTER)));
            }
            Err(error) => error!(error = format!("{error:#}"), "no new producer"),
        }
    }

    /// Reports whether this producer can deliver, as far as can be known: no record is ever sent to
    /// find out. Once it can, the next that fails is replaced at once.
    async fn watch(&self, producer: &Arc<Producer>, health: &Health, replacing: &mut Backoff) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut can_deliver = false;
        loop {
            let answer = self.ask(producer).await;
            // Of several brokers one that is silent may have been asked: the next time it is another.
            let answer = if answer.is_err() && can_deliver { self.ask(producer).await } else { answer };
            can_deliver = answer.is_ok();
            if let Err(reason) = answer {
                if health.unmet(PRODUCER_WARM, format!("Kafka doesn't describe topic {}: {reason}", self.topic)) {
                    info!(awaiting = "kafka", topic = self.topic, reason, "not ready");
                }
                tokio::time::sleep(backoff.pause()).await;
                continue;
            }
            if !producer.context().has_id_now() {
                health.unmet(PRODUCER_WARM, "Kafka has not given the producer its id yet");
                producer.context().has_id().await;
            }
            if health.met(PRODUCER_WARM) {
                info!(topic = self.topic, "producer is warm");
            }
            replacing.reset();
            backoff.reset();
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn ask(&self, producer: &Arc<Producer>) -> Result<(), String> {
        let (asked, topic) = (Arc::clone(producer), self.topic.clone());
        let answer = tokio::task::spawn_blocking(move || {
            let metadata = asked.client().fetch_metadata(Some(&topic), ASK_TIMEOUT).map_err(|e| e.to_string())?;
            let found = metadata.topics().first().ok_or("not described")?;
            if let Some(error) = found.error() {
                return Err(RDKafkaErrorCode::from(error).to_string());
            }
            let has_leader = found.partitions().iter().any(|partition| partition.leader() >= 0);
            if has_leader { Ok(()) } else { Err("no partition has a leader".to_owned()) }
        });
        answer.await.unwrap_or_else(|e| Err(e.to_string()))
    }

    /// The end of a partition's log (the offset of the next record), at least: from this replica's
    /// own acknowledgements where they reach beyond `offset`, else from the broker. None: the
    /// broker can't be asked now.
    pub async fn log_end(&self, topic: &str, partition: i32, offset: i64) -> Option<i64> {
        let own = topic == self.topic;
        if let Some(end) = self.log_ends.get(partition).filter(|end| own && *end > offset) {
            return Some(end);
        }
        let ask = async {
            let _permit = self.watermark_calls.acquire().await.ok()?;
            let (producer, topic) = (self.current(), topic.to_owned());
            let asked = tokio::task::spawn_blocking(move || {
                producer.client().fetch_watermarks(&topic, partition, WATERMARK_TIMEOUT)
            });
            match asked.await.ok()? {
                Ok((_, high)) => Some(high),
                Err(error) => {
                    warn!(partition, %error, "Kafka can't be asked where the log ends");
                    None
                }
            }
        };
        let end = tokio::time::timeout(WATERMARK_TIMEOUT, ask).await.ok().flatten()?;
        if own {
            self.log_ends.seen(partition, end);
        }
        Some(end)
    }

    /// Waits until everything that was handed over is settled, at most `within`.
    pub async fn flush(&self, within: Duration) {
        let producer = self.current();
        let flushed = tokio::task::spawn_blocking(move || {
            let result = producer.flush(within);
            (result, producer.in_flight_count())
        });
        if let Ok((Err(error), left)) = flushed.await {
            warn!(%error, left, "events whose requests had ended were not settled in time");
        }
    }
}

fn create(config: &ClientConfig, log_ends: &Arc<LogEnds>, metrics: &Publishing) -> anyhow::Result<Producer> {
    let context = Deliveries::new(Arc::clone(log_ends), metrics.clone());
    config.create_with_context(context).context("Kafka producer")
}
