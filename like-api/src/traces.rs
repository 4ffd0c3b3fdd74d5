//! Traces of requests and of their events, by OpenTelemetry's semantic conventions
//! 1.42.0. Without a collector there are no spans, and the caller's trace context is copied to the
//! record. With a collector, the request is a span of the caller's trace, publishing is its child, and
//! the record carries the child's context. No span has a user's id, an address, a token or a query.

use std::pin::Pin;
use std::task::Poll;
use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use like_common::trace_context::{TRACEPARENT, TRACESTATE, extract, record_headers};
use like_common::traces::Traces;
use opentelemetry::trace::{SpanContext, SpanKind, SpanRef, Status, TraceContextExt as _, TraceId, Tracer as _};
use opentelemetry::{Context, KeyValue};
use rdkafka::message::OwnedHeaders;

use crate::metrics::method_label;
use crate::publish::outcome::{Position, PublishError};

/// Every like looks this header up, which takes half as long by a constant as by text.
const PARENT_HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);
const STATE_HEADER: HeaderName = HeaderName::from_static(TRACESTATE);

/// The caller's span, named by the request's headers.
#[derive(Debug, Clone)]
pub struct Incoming(SpanContext);

impl Incoming {
    /// Returns None without a `traceparent`, with several, and with a malformed one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(PARENT_HEADER).iter();
        let (Some(parent), None) = (all.next(), all.next()) else { return None };
        // A list may be spread over several headers, whose order counts.
        let states: Vec<_> = headers.get_all(STATE_HEADER).iter().map(HeaderValue::as_bytes).collect();
        let state = Some(states.join(&b','));
        extract(parent.as_bytes(), state.as_deref()).map(Self)
    }

    pub fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }
}

/// The span of a request. Dropping it ends it too, as when the caller disconnects.
pub struct ServerSpan(Context);

impl ServerSpan {
    /// Starts the span. None: tracing is off.
    pub fn begin<B>(traces: &Traces, request: &Request<B>) -> Option<Self> {
        let tracer = traces.tracer()?;
        let method = method_label(request.method());
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("url.path", request.uri().path().to_owned()),
        ];
        if method == "_OTHER" {
            attributes.push(KeyValue::new("http.request.method_original", request.method().to_string()));
        }
        let parent = match Incoming::of(request.headers()) {
            Some(incoming) => Context::new().with_remote_span_context(incoming.0),
            None => Context::new(),
        };
        let span = tracer.span_builder(name(request.method(), "")).with_kind(SpanKind::Server);
        let span = tracer.build_with_context(span.with_attributes(attributes), &parent);
        Some(Self(Context::new().with_span(span)))
    }

    /// Sets the route, which isn't known at the start.
    pub fn route(&self, method: &Method, route: &str) {
        if !route.is_empty() {
            let span = self.0.span();
            span.update_name(name(method, route));
            span.set_attribute(KeyValue::new("http.route", route.to_owned()));
        }
    }

    pub fn trace_id(&self) -> TraceId {
        self.0.span().span_context().trace_id()
    }

    /// Ends the span with the answer's status. A status of the 400s is the caller's error, not ours.
    pub fn end(&self, status: StatusCode) {
        let span = self.0.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

fn name(method: &Method, route: &str) -> String {
    let method = match method_label(method) {
        "_OTHER" => "HTTP",
        method => method,
    };
    if route.is_empty() { method.to_owned() } else { format!("{method} {route}") }
}

/// Polls `handle` with the span as the current one, so that spans started meanwhile are its children.
/// The caller pins the future: moved in here, it would take twice its memory in each connection.
pub async fn within<T>(span: Option<&ServerSpan>, mut handle: Pin<&mut impl Future<Output = T>>) -> T {
    std::future::poll_fn(|task| -> Poll<T> {
        let _current = span.map(|span| span.0.clone().attach());
        handle.as_mut().poll(task)
    })
    .await
}

/// The trace context of an event that is being published.
pub enum Sending {
    /// None: the caller sent none.
    Untraced,
    /// The caller's, copied.
    Passed(Incoming),
    /// A span, the child of the request's.
    Span(Context),
}

impl Sending {
    /// Starts a span, or copies the caller's context (`incoming`) if tracing is off.
    pub fn begin(traces: &Traces, topic: &str, key: &str, incoming: impl FnOnce() -> Option<Incoming>) -> Self {
        let key = || KeyValue::new("messaging.kafka.message.key", key.to_owned());
        Self::begin_with(traces, topic, key, incoming)
    }

    /// The same for several events: one span, whose context all their records carry.
    pub fn begin_all(traces: &Traces, topic: &str, events: usize, incoming: impl FnOnce() -> Option<Incoming>) -> Self {
        let number = || KeyValue::new("messaging.batch.message_count", events as i64);
        Self::begin_with(traces, topic, number, incoming)
    }

    fn begin_with(
        traces: &Traces,
        topic: &str,
        attribute: impl FnOnce() -> KeyValue,
        incoming: impl FnOnce() -> Option<Incoming>,
    ) -> Self {
        let Some(tracer) = traces.tracer() else {
            return incoming().map_or(Self::Untraced, Self::Passed);
        };
        let attributes = [
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.name", "send"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", topic.to_owned()),
            attribute(),
        ];
        // The record carries its context: that makes the kind producer and not client.
        let span = tracer.span_builder(format!("send {topic}")).with_kind(SpanKind::Producer);
        let span = span.with_start_time(SystemTime::now()).with_attributes(attributes);
        Self::Span(Context::current_with_span(tracer.build(span)))
    }

    pub fn headers(&self) -> Option<OwnedHeaders> {
        match self {
            Self::Untraced => None,
            Self::Passed(incoming) => Some(record_headers(&incoming.0)),
            Self::Span(context) => Some(record_headers(context.span().span_context())),
        }
    }

    /// Ends the span with the result.
    pub fn end(self, published: &Result<Position, PublishError>) {
        let Self::Span(context) = self else { return };
        let span = context.span();
        match published {
            Ok(Position { partition, offset, .. }) => {
                span.set_attribute(KeyValue::new("messaging.destination.partition.id", partition.to_string()));
                span.set_attribute(KeyValue::new("messaging.kafka.offset", *offset));
            }
            Err(error) => failed(&span, error),
        }
        span.end();
    }

    /// Ends the span of several events; the first error is the span's.
    pub fn end_all(self, published: &[Result<Position, PublishError>]) {
        let Self::Span(context) = self else { return };
        if let Some(error) = published.iter().find_map(|one| one.as_ref().err()) {
            failed(&context.span(), error);
        }
        context.span().end();
    }
}

fn failed(span: &SpanRef<'_>, error: &PublishError) {
    span.set_attribute(KeyValue::new("error.type", error.outcome()));
    span.set_status(Status::error(error.to_string()));
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, Headers as _};

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn passed(sent: &[(&'static str, &str)]) -> Option<Vec<(String, String)>> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let sending = Sending::begin(&Traces::default(), "t", "p1", || Incoming::of(&headers));
        let headers = sending.headers()?;
        let text = |header: Header<'_, &[u8]>| {
            (header.key.to_owned(), String::from_utf8(header.value.unwrap().to_vec()).unwrap())
        };
        Some(headers.iter().map(text).collect())
    }

    #[test]
    fn callers_trace_is_passed_on() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(passed(&[(TRACEPARENT, VALID)]).unwrap(), [pair(TRACEPARENT, VALID)]);
        assert_eq!(
            passed(&[(TRACESTATE, "a=1"), (TRACEPARENT, VALID), (TRACESTATE, "b=2, c=3")]).unwrap(),
            [pair(TRACEPARENT, VALID), pair(TRACESTATE, "a=1,b=2,c=3")]
        );
    }

    #[test]
    fn a_trace_that_breaks_a_rule_is_not_passed_on() {
        for sent in [
            &[][..],
            &[(TRACEPARENT, "nonsense")],
            &[(TRACEPARENT, VALID), (TRACEPARENT, VALID)],
            // Without traceparent it has no meaning.
            &[(TRACESTATE, "a=1")],
        ] {
            assert_eq!(passed(sent), None, "{sent:?}");
        }
    }
}
