//! Publishes events. The result is exact: written at a position, certainly not written, or perhaps
//! written. An event is handed to the producer only once; the caller decides about a retry.
//! `http::error` turns the result into a response.
//!
//! librdkafka sends a request per partition, which costs as much as a like here and at the broker. So there are two
//! producers: under little load one sends each event at once, under more another gathers events for some milliseconds. A
//! user's events stay in order, because the next request comes after the acknowledgement of the last one; requests that
//! overlap have no order. The events of one request go through one of them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use anyhow::Context;
use like_common::backoff::Backoff;
use like_common::health::Health;
use like_events::topic::MAX_VALUE_BYTES;
use prometheus::IntGauge;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio::sync::{Notify, Semaphore, oneshot};
use tracing::{error, info, warn};

use super::delivery::{Deliveries, LogEnds, Pending, Settled, fatal_error};
use super::end_offsets::EndOffsets;
use super::load::Load;
use super::outcome::{Position, PublishError};
use super::properties;
use super::topic_facts::TopicFacts;
use crate::metrics::Publishing;

/// Readiness condition: Kafka answers and the producer has its id, so that the first like doesn't wait
/// half a second for it.
pub const PRODUCER_WARM: &str = "producer";

/// Polling interval for delivery reports while events are in flight. Reports come per partition, and a
/// thread that waits for them would wake the runtime for each. Polling halves the context switches and
/// costs a millisecond.
const REPORTS_EVERY: Duration = Duration::from_millis(1);
/// The same while none is in flight, for errors and statistics.
const IDLE_EVERY: Duration = Duration::from_millis(100);
/// Interval and timeout of metadata requests. They show whether likes can be delivered while none
/// arrives: an unready service gets no likes.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const WATERMARK_TIMEOUT: Duration = Duration::from_secs(2);
/// By then a failed producer has settled all its events.
const SETTLED_AFTER: Duration = Duration::from_secs(7);
/// Most concurrent watermark requests: each blocks a thread.
const WATERMARK_CALLS: usize = 8;

type Producer = BaseProducer<Deliveries>;

/// An event that the producer has accepted, or why not.
type HandedOver = Result<oneshot::Receiver<Settled>, PublishError>;

/// A producer that isn't replaced meanwhile, and the number of its events in flight.
type Chosen<'p> = (RwLockReadGuard<'p, Arc<Producer>>, &'p IntGauge);

pub struct Publisher {
    /// As the operator has set it, and with the contract's properties.
    config: ClientConfig,
    /// With `batch.size` for the topic.
    fitted: RwLock<ClientConfig>,
    refitted: Notify,
    facts: Arc<TopicFacts>,
    topic: String,
    metrics: Publishing,
    log_ends: Arc<LogEnds>,
    end_offsets: EndOffsets,
    watermark_calls: Semaphore,
    /// In the order of `properties::by_linger`.
    producers: Vec<Slot>,
    /// Whether events go to the last producer instead of the first.
    gathers: AtomicBool,
    handed_over: Notify,
}

/// A producer, which is replaced after a fatal error. Read-locked while events are handed over (2 us each), so that a replaced
/// producer gets no event.
struct Slot {
    current: RwLock<Arc<Producer>>,
    in_flight: IntGauge,
}

impl Publisher {
    /// Creates a producer from the connection properties in `config`. It connects in the background
    /// and needs [`Publisher::keep_running`].
    pub fn new(mut config: ClientConfig, topic: &str, metrics: Publishing) -> anyhow::Result<Self> {
        properties::apply(&mut config);
        let (log_ends, facts) = (Arc::new(LogEnds::default()), Arc::new(TopicFacts::unknown()));
        let create = |(config, in_flight): (ClientConfig, &IntGauge)| {
            let producer = create(&config, &log_ends, &facts, &metrics, in_flight)?;
            Ok(Slot { current: RwLock::new(producer), in_flight: in_flight.clone() })
        };
        let configs = properties::by_linger(&config).into_iter();
        let producers = configs.zip(&metrics.in_flight).map(create).collect::<anyhow::Result<_>>()?;
        Ok(Self {
            fitted: RwLock::new(config.clone()),
            refitted: Notify::new(),
            facts,
            config,
            topic: topic.to_owned(),
            metrics,
            log_ends,
            end_offsets: EndOffsets::default(),
            watermark_calls: Semaphore::new(WATERMARK_CALLS),
            producers,
            gathers: AtomicBool::new(false),
            handed_over: Notify::new(),
        })
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What was seen of the topic.
    pub fn facts(&self) -> &TopicFacts {
        &self.facts
    }

    /// Makes batches fit the topic's `max.message.bytes`. A producer that might send larger ones is replaced.
    pub fn fit_batches(&self, max_message_bytes: usize) {
        if !self.facts.set_max_batch(max_message_bytes) {
            return;
        }
        let mut fitted = self.config.clone();
        properties::limit_batches(&mut fitted, max_message_bytes);
        let mut now = self.fitted.write().unwrap_or_else(PoisonError::into_inner);
        if properties::batches_exceed(&now, max_message_bytes) {
            self.refitted.notify_one();
        }
        *now = fitted;
    }

    /// Publishes one event and waits for the result, about six seconds at most. Dropping the future
    /// doesn't withdraw the event.
    pub async fn publish(
        &self,
        key: &str,
        value: &[u8],
        headers: Option<OwnedHeaders>,
    ) -> Result<Position, PublishError> {
        let handed = self.hand_over(&self.chosen(), key, value, headers);
        self.settled(handed).await
    }

    /// Publishes events, each a key and a value, and waits for the results. All go through one producer, in order, so that
    /// those of one key are in the log in this order. Once the queue is full, the rest is refused too.
    pub async fn publish_all<'e>(
        &self,
        events: impl ExactSizeIterator<Item = (&'e str, &'e [u8])>,
        headers: Option<&OwnedHeaders>,
    ) -> Vec<Result<Position, PublishError>> {
        let mut results = Vec::with_capacity(events.len());
        let handed: Vec<_> = {
            let (producer, mut is_full) = (self.chosen(), false);
            let hand_over = |(key, value)| {
                if is_full {
                    return Err(PublishError::QueueFull);
                }
                let handed = self.hand_over(&producer, key, value, headers.cloned());
                is_full = matches!(handed, Err(PublishError::QueueFull));
                handed
            };
            events.map(hand_over).collect()
        };
        for handed in handed {
            results.push(self.settled(handed).await);
        }
        results
    }

    async fn settled(&self, handed: HandedOver) -> Settled {
        let settled = handed.inspect_err(|error| self.metrics.count(Err(error)))?;
        // The producer settles every event that it accepted, also when it is dropped.
        settled.await.unwrap_or_else(|_| Err(PublishError::PerhapsWritten("the producer gave no report".to_owned())))
    }

    /// Returns the producer for the present load.
    fn chosen(&self) -> Chosen<'_> {
        let number = if self.gathers.load(Ordering::Relaxed) { self.producers.len() - 1 } else { 0 };
        let slot = &self.producers[number];
        (slot.read(), &slot.in_flight)
    }

    fn hand_over(
        &self,
        (producer, in_flight): &Chosen<'_>,
        key: &str,
        value: &[u8],
        headers: Option<OwnedHeaders>,
    ) -> HandedOver {
        if value.len() > MAX_VALUE_BYTES {
            return Err(PublishError::TooLarge);
        }
        let (settle, settled) = oneshot::channel();
        let pending = Box::new(Pending { settle, since: Instant::now() });
        let mut record = BaseRecord::with_opaque_to(&self.topic, pending).key(key).payload(value);
        record.headers = headers;
        in_flight.inc();
        match producer.send(record) {
            Ok(()) => {
                self.handed_over.notify_one();
                Ok(settled)
            }
            Err((error, _)) => {
                in_flight.dec();
                Err(match error {
                    KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => PublishError::QueueFull,
                    KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge) => PublishError::TooLarge,
                    KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic) => PublishError::NoTopic,
                    error => PublishError::NotWritten(error.to_string()),
                })
            }
        }
    }

    /// Settles events, reports [`PRODUCER_WARM`], and replaces producers after a fatal error. Never
    /// returns.
    pub async fn keep_running(&self, health: &Health) -> Infallible {
        tokio::select! {
            never = self.settle() => never,
            never = self.keep_producing(health) => never,
        }
    }

    /// Polls for delivery reports, which settle events, and follows the load. A replaced producer is polled by its flush.
    async fn settle(&self) -> Infallible {
        let mut load = Load::default();
        loop {
            let in_flight = self.producers.iter().map(|slot| slot.in_flight.get()).sum();
            self.gathers.store(load.follow(in_flight), Ordering::Relaxed);
            if in_flight > 0 {
                tokio::time::sleep(REPORTS_EVERY).await;
            } else {
                let _ = tokio::time::timeout(IDLE_EVERY, self.handed_over.notified()).await;
            }
            for slot in &self.producers {
                // The lock and not a clone: dropping the last reference waits for the producer's threads.
                let producer = slot.read();
                producer.context().take_reports(|| producer.poll(Duration::ZERO));
            }
        }
    }

    async fn keep_producing(&self, health: &Health) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            let producers = self.current();
            let fatal = tokio::select! {
                fatal = fatal_error(&producers) => Some(fatal),
                () = self.refitted.notified() => None,
                never = self.watch(&producers, health, &mut backoff) => match never {},
            };
            drop(producers);
            let Some((number, fatal)) = fatal else {
                info!("the topic takes smaller batches; creating new producers");
                (0..self.producers.len()).for_each(|number| self.replace(number));
                continue;
            };
            error!(fatal, "fatal producer error; creating a new producer");
            health.unmet(PRODUCER_WARM, format!("the producer has failed: {fatal}"));
            self.replace(number);
            // After the replacement: an error that recurs at once must not spin.
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    fn current(&self) -> Vec<Arc<Producer>> {
        self.producers.iter().map(|slot| Arc::clone(&slot.read())).collect()
    }

    fn replace(&self, number: usize) {
        let config = self.fitted.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Slot { current, in_flight } = &self.producers[number];
        match create(&properties::by_linger(&config)[number], &self.log_ends, &self.facts, &self.metrics, in_flight) {
            Ok(new) => {
                let mut current = current.write().unwrap_or_else(PoisonError::into_inner);
                let old = std::mem::replace(&mut *current, new);
                // Its flush settles the remaining events. Flush and drop block, and nothing waits for them.
                tokio::task::spawn_blocking(move || drop(old.flush(SETTLED_AFTER)));
            }
            Err(error) => error!(error = format!("{error:#}"), "no new producer"),
        }
    }

    /// Reports whether these producers can deliver, as far as metadata shows: no record is sent to find
    /// out. Once they can, the next fatal error is handled without a pause.
    async fn watch(&self, producers: &[Arc<Producer>], health: &Health, replacing: &mut Backoff) -> Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut can_deliver = false;
        loop {
            let answer = self.ask(&producers[0]).await;
            // One of several brokers may be unresponsive: the second request goes to another one.
            let answer = if answer.is_err() && can_deliver { self.ask(&producers[0]).await } else { answer };
            can_deliver = answer.is_ok();
            if let Err(reason) = answer {
                if health.unmet(PRODUCER_WARM, format!("Kafka doesn't describe topic {}: {reason}", self.topic)) {
                    info!(awaiting = "kafka", topic = self.topic, reason, "not ready");
                }
                tokio::time::sleep(backoff.pause()).await;
                continue;
            }
            for producer in producers {
                if !producer.context().has_id_now() {
                    health.unmet(PRODUCER_WARM, "Kafka has not given the producer its id yet");
                    producer.context().has_id().await;
                }
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
        let (asked, topic, facts) = (Arc::clone(producer), self.topic.clone(), Arc::clone(&self.facts));
        let answer = tokio::task::spawn_blocking(move || {
            let metadata = asked.client().fetch_metadata(Some(&topic), ASK_TIMEOUT).map_err(|e| e.to_string())?;
            let found = metadata.topics().first().ok_or("not described")?;
            match found.error().map(RDKafkaErrorCode::from) {
                None => facts.saw_partitions(found.partitions().len() as i32),
                Some(error) => {
                    if error == RDKafkaErrorCode::UnknownTopicOrPartition {
                        facts.saw_partitions(0);
                    }
                    return Err(error.to_string());
                }
            }
            let has_leader = found.partitions().iter().any(|partition| partition.leader() >= 0);
            if has_leader { Ok(()) } else { Err("no partition has a leader".to_owned()) }
        });
        answer.await.unwrap_or_else(|e| Err(e.to_string()))
    }

    /// Returns a lower bound of a partition's end offset: from this replica's own acknowledgements if
    /// they are past `offset`, else from the broker. None: the broker can't be reached now.
    pub async fn log_end(&self, topic: &str, partition: i32, offset: i64) -> Option<i64> {
        let own = topic == self.topic;
        if let Some(end) = self.log_ends.get(partition).filter(|end| own && *end > offset) {
            return Some(end);
        }
        let ask = async || {
            let _permit = self.watermark_calls.acquire().await.ok()?;
            let (producer, topic) = (Arc::clone(&self.producers[0].read()), topic.to_owned());
            let asked = tokio::task::spawn_blocking(move || {
                producer.client().fetch_watermarks(&topic, partition, WATERMARK_TIMEOUT)
            });
            match asked.await.ok()? {
                Ok((_, high)) => Some(high),
                Err(error) => {
                    warn!(partition, %error, "end offset not available");
                    None
                }
            }
        };
        let ask = self.end_offsets.get(topic, partition, ask);
        let end = tokio::time::timeout(WATERMARK_TIMEOUT, ask).await.ok().flatten()?;
        if own {
            self.log_ends.seen(partition, end);
        }
        Some(end)
    }

    /// Waits until all events are settled, at most `within`.
    pub async fn flush(&self, within: Duration) {
        let flush = |producer: Arc<Producer>| {
            tokio::task::spawn_blocking(move || (producer.flush(within), producer.in_flight_count()))
        };
        let flushes: Vec<_> = self.current().into_iter().map(flush).collect();
        for flushed in flushes {
            if let Ok((Err(error), left)) = flushed.await {
                warn!(%error, left, "flush timed out with events in flight");
            }
        }
    }
}

impl Slot {
    fn read(&self) -> RwLockReadGuard<'_, Arc<Producer>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create(
    config: &ClientConfig,
    log_ends: &Arc<LogEnds>,
    facts: &Arc<TopicFacts>,
    metrics: &Publishing,
    in_flight: &IntGauge,
) -> anyhow::Result<Arc<Producer>> {
    let context = Deliveries::new(Arc::clone(log_ends), Arc::clone(facts), metrics.clone(), in_flight.clone());
    config.create_with_context(context).map(Arc::new).context("Kafka producer")
}
