//! Spans of batches, by OpenTelemetry's messaging conventions 1.42.0: one per batch, linked to the spans that published its
//! records, with a child per attempt at the transaction. Without a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`) there are no
//! spans, and headers of records aren't read.

use like_common::trace_context::{TRACEPARENT, TRACESTATE, extract};
use like_common::traces::Traces;
use opentelemetry::trace::{Link, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::fold::Batch;

/// The most links of a batch: as many as the SDK keeps per span by default.
const LINKS_MAX: usize = 128;

/// The spans that published a batch's records, by partition. Only recorded ones: a link to another would lead nowhere.
#[derive(Debug, Default)]
pub struct Links(Vec<(i32, SpanContext)>);

impl Links {
    /// Adds the span in the headers of a record that was added to the batch.
    pub fn add(&mut self, message: &BorrowedMessage<'_>) {
        self.add_from(message.partition(), || {
            let headers = message.headers()?;
            let first = |name: &str| headers.iter().find(|header| header.key == name).and_then(|header| header.value);
            Some((first(TRACEPARENT)?, first(TRACESTATE)))
        });
    }

    /// Reads headers only while there is room.
    fn add_from<'h>(&mut self, partition: i32, headers: impl FnOnce() -> Option<(&'h [u8], Option<&'h [u8]>)>) {
        if self.0.len() < LINKS_MAX
            && let Some((parent, state)) = headers()
            && let Some(parent) = extract(parent, state).filter(SpanContext::is_sampled)
        {
            self.0.push((partition, parent));
        }
    }

    pub fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
        self.0.truncate(LINKS_MAX);
    }

    pub fn forget(&mut self, partition: i32) {
        self.0.retain(|(of, _)| *of != partition);
    }
}

#[derive(Default)]
pub struct BatchTraces {
    pub traces: Traces,
    pub topic: String,
    pub group: String,
}

/// The span of a batch, or of an attempt at it. Dropping the value ends it too.
pub struct Started(Context);

impl BatchTraces {
    /// Starts the span of a batch; None if spans are off.
    pub fn batch(&self, batch: &Batch, links: Links) -> Option<Started> {
        let tracer = self.traces.tracer()?;
        let attributes = [
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", self.topic.clone()),
            KeyValue::new("messaging.consumer.group.name", self.group.clone()),
            KeyValue::new("messaging.batch.message_count", batch.len() as i64),
        ];
        let links = links.0.into_iter().map(|(_, context)| Link::with_context(context)).collect();
        let span = tracer.span_builder(format!("process {}", self.topic)).with_kind(SpanKind::Consumer);
        let span = tracer.build_with_context(span.with_attributes(attributes).with_links(links), &Context::new());
        Some(Started(Context::new().with_span(span)))
    }

    /// Starts the span of an attempt at a part of the batch, or all of it.
    pub fn attempt(&self, batch: &Started, part: &Batch) -> Option<Started> {
        let tracer = self.traces.tracer()?;
        let attributes = [
            KeyValue::new("db.system.name", "postgresql"),
            KeyValue::new("db.operation.name", "transaction"),
            KeyValue::new("messaging.batch.message_count", part.len() as i64),
        ];
        let span = tracer.span_builder("transaction").with_kind(SpanKind::Client).with_attributes(attributes);
        Some(Started(Context::new().with_span(tracer.build_with_context(span, &batch.0))))
    }
}

impl Started {
    /// Ends the span; `failure` is the kind of error and its text.
    pub fn end(self, failure: Option<(&'static str, String)>) {
        let span = self.0.span();
        if let Some((kind, text)) = failure {
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(text));
        }
        span.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(flags: &str) -> String {
        format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}")
    }

    #[test]
    fn links_lead_to_recorded_spans_only() {
        let mut links = Links::default();
        for (partition, parent) in [(0, parent("01")), (1, parent("00")), (1, parent("01")), (2, "x".to_owned())] {
            links.add_from(partition, || Some((parent.as_bytes(), Some(b"a=1"))));
        }
        links.add_from(0, || None);
        assert_eq!(links.0.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(links.0[0].1.trace_state().header(), "a=1");
        links.forget(0);
        assert_eq!(links.0.len(), 1);
    }

    #[test]
    fn links_are_limited() {
        let (mut links, mut looked, parent) = (Links::default(), 0, parent("01"));
        for _ in 0..LINKS_MAX + 5 {
            links.add_from(0, || {
                looked += 1;
                Some((parent.as_bytes(), None))
            });
        }
        assert_eq!((links.0.len(), looked), (LINKS_MAX, LINKS_MAX));
    }
}
