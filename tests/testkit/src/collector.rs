//! An OpenTelemetry collector that accepts OTLP over HTTP and stores the spans.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::eventually;

pub struct TestCollector {
    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub url: String,
    received: Arc<Mutex<Received>>,
    listening: JoinHandle<()>,
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
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let received = Arc::<Mutex<Received>>::default();
        let keep = Arc::clone(&received);
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&keep)));
            }
        });
        Self { url, received, listening }
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
        self.listening.abort();
        if std::thread::panicking() {
            eprintln!("the collector has {:#?}", self.spans());
        }
    }
}

/// Serves one connection until its client closes it.
async fn serve(stream: TcpStream, received: Arc<Mutex<Received>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head
            .to_lowercase()
            .split("content-length:")
            .nth(1)
            .and_then(|rest| rest.lines().next().and_then(|value| value.trim().parse::<usize>().ok()));
        let mut body = vec![0; length.expect("a request with its length")];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let request = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
        {
            let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
            received.heads.push(head);
            for of_resource in request.resource_spans {
                let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
                let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                received.spans.extend(spans.map(|span| TestSpan::of(span, resource.clone())));
            }
        }
        // An empty protobuf message: all spans accepted.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
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
