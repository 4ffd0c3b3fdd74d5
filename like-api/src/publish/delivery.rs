//! The callbacks of librdkafka: delivery reports, statistics (for the producer id) and errors. They run
//! where the producer is polled. A panic would end the polling, so nothing here panics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::select_all;
use prometheus::IntGauge;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, DefaultProducerContext, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaMessage;
use serde::Deserialize;
use tokio::sync::{Notify, oneshot, watch};
use tracing::warn;

use super::outcome::{Position, PublishError};
use super::topic_facts::TopicFacts;
use crate::metrics::Publishing;

pub(super) type Settled = Result<Position, PublishError>;

/// An event in flight: librdkafka returns it with the delivery report.
pub(super) struct Pending {
    pub settle: oneshot::Sender<Settled>,
    pub since: Instant,
}

pub(super) struct Deliveries {
    log_ends: Arc<LogEnds>,
    facts: Arc<TopicFacts>,
    metrics: Publishing,
    in_flight: IntGauge,
    has_id: watch::Sender<bool>,
    maybe_fatal: Notify,
    settled: AtomicU64,
    last_error: Mutex<Option<(Option<RDKafkaErrorCode>, Instant)>>,
}

/// Pause between log lines about the same error: librdkafka reports each error twice, and again with
/// each attempt to connect.
const REPEAT_ERROR_AFTER: Duration = Duration::from_secs(10);

impl Deliveries {
    pub fn new(log_ends: Arc<LogEnds>, facts: Arc<TopicFacts>, metrics: Publishing, in_flight: IntGauge) -> Self {
        let has_id = watch::Sender::new(false);
        let (maybe_fatal, settled, last_error) = (Notify::new(), AtomicU64::new(0), Mutex::default());
        Self { log_ends, facts, metrics, in_flight, has_id, maybe_fatal, settled, last_error }
    }

    /// Polls until a poll settles no event. One poll handles one report: of all events of a batch.
    pub fn take_reports(&self, poll: impl Fn()) {
        loop {
            let before = self.settled.load(Ordering::Relaxed);
            poll();
            if self.settled.load(Ordering::Relaxed) == before {
                break;
            }
            self.metrics.batches.inc();
        }
    }

    pub fn has_id_now(&self) -> bool {
        *self.has_id.borrow()
    }

    /// Waits until the broker has assigned the producer id, which writing needs.
    pub async fn has_id(&self) {
        // Can't fail: `self` owns the sender.
        let _ = self.has_id.subscribe().wait_for(|has_id| *has_id).await;
    }
}

/// Waits for a fatal error of one of the producers and returns which one it is and the text.
pub(super) async fn fatal_error(producers: &[Arc<BaseProducer<Deliveries>>]) -> (usize, String) {
    let errors = producers.iter().enumerate().map(async |(number, producer)| {
        loop {
            if let Some((code, text)) = producer.client().fatal_error() {
                return (number, format!("{code}: {text}"));
            }
            producer.context().maybe_fatal.notified().await;
        }
    });
    select_all(errors.map(Box::pin)).await.0
}

impl ClientContext for Deliveries {
    fn stats_raw(&self, statistics: &[u8]) {
        #[derive(Deserialize)]
        struct Stats {
            eos: Option<Eos>,
        }
        #[derive(Deserialize)]
        struct Eos {
            idemp_state: String,
        }
        if self.has_id_now() {
            return;
        }
        let stats = serde_json::from_slice::<Stats>(statistics);
        if stats.is_ok_and(|stats| stats.eos.is_some_and(|eos| eos.idemp_state == "Assigned")) {
            self.has_id.send_replace(true);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // A fatal error has any code: `fatal_error` asks the client.
        self.maybe_fatal.notify_one();
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve)) {
            return; // librdkafka logs it itself, at a lower rate.
        }
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|(last, at)| last != code || at.elapsed() > REPEAT_ERROR_AFTER) {
            *last = Some((code, Instant::now()));
            warn!(%error, reason, "Kafka");
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A false warning: producers ignore the property, but their watermark requests don't.
        if !(facility == "CONFWARN" && message.contains("isolation.level")) {
            DefaultProducerContext.log(level, facility, message);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        let settled = settle(result, &self.facts);
        if let Ok(position) = settled {
            self.log_ends.seen(position.partition, position.offset + 1);
        }
        self.settled.fetch_add(1, Ordering::Relaxed);
        self.in_flight.dec();
        self.metrics.duration.observe(pending.since.elapsed().as_secs_f64());
        self.metrics.count(settled.as_ref().map(|_| ()));
        // The receiver is gone if the caller has disconnected.
        let _ = pending.settle.send(settled);
    }
}

fn settle(result: &DeliveryResult<'_>, facts: &TopicFacts) -> Settled {
    match result {
        Ok(message) if message.offset() >= 0 => {
            let time = message.timestamp().to_millis().unwrap_or_default();
            Ok(Position { partition: message.partition(), offset: message.offset(), time })
        }
        // librdkafka repeated a request that the broker had written too long ago to know its offset.
        Ok(_) => Err(PublishError::PerhapsWritten("written at an unknown offset".to_owned())),
        // The broker judges a batch: of one event, or of the events before the topic's limit was known.
        Err((error @ KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), message)) => {
            let too_large = facts.refused_for_size(record_bytes(message));
            Err(if too_large { PublishError::TooLarge } else { PublishError::NotWritten(error.to_string()) })
        }
        Err((error, message)) if certainly_not_written(message) => Err(match error {
            KafkaError::MessageProduction(
                RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition,
            ) => PublishError::NoTopic,
            error => PublishError::NotWritten(error.to_string()),
        }),
        Err((error, _)) => Err(PublishError::PerhapsWritten(error.to_string())),
    }
}

/// The least size of a batch with this record, uncompressed: 61 bytes of head and at least 7 before its key.
fn record_bytes(message: &BorrowedMessage<'_>) -> usize {
    68 + message.key_len() + message.payload_len()
}

/// Whether no broker can have written the message.
#[expect(unsafe_code, reason = "rdkafka's safe API lacks the status that tells 503 from 504")]
fn certainly_not_written(message: &BorrowedMessage<'_>) -> bool {
    use rdkafka::bindings::{rd_kafka_message_status, rd_kafka_msg_status_t};
    let pointer: *mut RDKafkaMessage = message.ptr();
    // SAFETY: the message is borrowed, so librdkafka keeps it; the call reads one field of it.
    let status = unsafe { rd_kafka_message_status(pointer) };
    status == rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED
}

impl Publishing {
    pub(super) fn count(&self, settled: Result<(), &PublishError>) {
        match settled {
            Ok(()) => &self.acknowledged,
            Err(PublishError::QueueFull) => &self.queue_full,
            Err(PublishError::TooLarge | PublishError::NoTopic | PublishError::NotWritten(_)) => &self.rejected,
            Err(PublishError::PerhapsWritten(_)) => &self.unknown,
        }
        .inc();
    }
}

/// The highest end offset of each partition that this replica has seen, over all its producers.
#[derive(Default)]
pub(super) struct LogEnds(Mutex<Vec<i64>>);

impl LogEnds {
    pub fn seen(&self, partition: i32, end: i64) {
        let Ok(index) = usize::try_from(partition) else { return };
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() <= index {
            ends.resize(index + 1, 0);
        }
        ends[index] = ends[index].max(end);
    }

    pub fn get(&self, partition: i32) -> Option<i64> {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.get(usize::try_from(partition).ok()?).copied()
    }
}
