//! An OpenTelemetry collector that accepts OTLP over HTTP and stores the spans.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::eventually;
use crate::http::Server;

pub struct TestCollector {
    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub url: String,
    received: Arc<Mutex<Received>>,
    _server: Server,
}

#[derive(Default)]
struct Received {
    spans: Vec<TestSpan>,
    heads: Vec<String>,
}

/// A received span; ids are hexadecimal.
#[derive(Debug, Clone, Default)]
pub struct TestSpan {
    pub resource: BTreeMap<String, String>,
    pub name: String,
    /// 2: server, 3: client, 4: producer, 5: consumer.
    pub kind: i32,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for a root span.
    pub parent_id: String,
    pub attributes: BTreeMap<String, String>,
    /// (trace id, span id) of linked spans.
    pub links: Vec<(String, String)>,
    /// 0: unset, 2: error.
    pub status: i32,
}

impl TestCollector {
    pub async fn start() -> Self {
        let received = Arc::<Mutex<Received>>::default();
        let store = Arc::clone(&received);
        let server = Server::start(move |head, body| {
            let request = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            store.heads.push(head);
            for of_resource in request.resource_spans {
                let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
                let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                store.spans.extend(spans.map(|span| TestSpan::of(span, resource.clone())));
            }
            // An empty protobuf message: all spans accepted.
            std::future::ready(Some(String::new()))
        })
        .await;
        Self { url: server.url.clone(), received, _server: server }
    }

    pub fn spans(&self) -> Vec<TestSpan> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// Request line and headers of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).heads.clone()
    }

    pub async fn span(&self, what: &str, is_it: impl Fn(&TestSpan) -> bool) -> TestSpan {
        eventually(what, async || self.spans().into_iter().find(&is_it)).await
    }
}

impl Drop for TestCollector {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the collector has {:#?}", self.spans());
        }
    }
}

impl TestSpan {
    fn of(span: Span, resource: BTreeMap<String, String>) -> Self {
        Self {
            resource,
            name: span.name,
            kind: span.kind,
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_id: hex(&span.parent_span_id),
            attributes: attributes(&span.attributes),
            links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
            status: span.status.map_or(0, |status| status.code),
        }
    }

    /// The value of an attribute, or an empty string.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    list.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
