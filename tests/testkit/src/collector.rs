//! An OpenTelemetry collector for tests: takes OTLP over HTTP and remembers the spans.

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

/// Listens until the value goes.
pub struct TestCollector {
    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub url: String,
    received: Arc<Mutex<Received>>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Received {
    spans: Vec<TestSpan>,
    heads: Vec<String>,
}

/// A span as the collector got it, ids in hexadecimal.
#[derive(Debug, Clone, Default)]
pub struct TestSpan {
    /// Attributes of the resource.
    pub resource: BTreeMap<String, String>,
    /// Its name.
    pub name: String,
    /// 2: server, 3: client, 4: producer, 5: consumer.
    pub kind: i32,
    /// Its trace.
    pub trace_id: String,
    /// Its own.
    pub span_id: String,
    /// Its parent's; empty: it has none.
    pub parent_id: String,
    /// What else it says.
    pub attributes: BTreeMap<String, String>,
    /// Trace and span of those that it is linked to.
    pub links: Vec<(String, String)>,
    /// 0: unset, 2: error.
    pub status: i32,
}

impl TestCollector {
    /// Starts one.
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

    /// All spans so far.
    pub fn spans(&self) -> Vec<TestSpan> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// The heads of all requests so far: request line and headers.
    pub fn requests(&self) -> Vec<String> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).heads.clone()
    }

    /// Waits for a span.
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

/// One connection, until its client closes it.
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
        // An empty answer of protobuf: all taken.
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

    /// An attribute; empty: it has none of that name.
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
