//! A like's trace, from the caller's request to the batch that counts it: real services and a collector
//! that stores the spans.

use std::io::Write as _;
use std::time::Duration;

use like_testkit::process::free_addr;
use like_testkit::{TestCollector, TestService, TestSpan, TestSystem, until};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Sends a like with these headers and waits for its acknowledgement.
async fn like(api: &TestService, product: &str, headers: &[(&str, &str)]) {
    let url = format!("{}/v1/products/{product}/like?campaign=hidden-query", api.url);
    let mut request = api.http.put(url).header("X-User-Id", "hidden-user");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    assert_eq!(request.send().await.unwrap().status(), 202);
}

/// The headers of the record at this offset of partition 0.
fn record_headers(topic: &str, offset: i64) -> Vec<(String, String)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", like_testkit::kafka()).set("group.id", "none").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    consumer.assign(&place).unwrap();
    let record = consumer.poll(Duration::from_secs(30)).expect("a record within 30 s").expect("a record");
    assert_eq!(record.offset(), offset);
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    record.headers().map_or(Vec::new(), |all| all.iter().map(|one| (one.key.to_owned(), text(one.value))).collect())
}

/// Whether the process has a thread of the SDK.
fn exports(service: &TestService) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", service.process.id())).unwrap();
    let name =
        |thread: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(thread.unwrap().path().join("comm"));
    threads.filter_map(|thread| name(thread).ok()).any(|name| name.starts_with("OpenTelemetry"))
}

async fn traced(collector: &str) -> TestSystem {
    let mut system = TestSystem::set_up(1).await;
    system.set("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    system.set("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=k%2541");
    system.set("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    system.set("OTEL_BSP_SCHEDULE_DELAY", "100");
    system
}

fn is_batch(span: &TestSpan) -> bool {
    span.name.starts_with("process ")
}

#[tokio::test]
async fn like_is_traced_to_its_batch() {
    let collector = TestCollector::start().await;
    let system = traced(&collector.url).await;
    // Headers with a secret may come from a file.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "x-api-key=k%2541").unwrap();
    let of_file =
        [("OTEL_EXPORTER_OTLP_HEADERS", ""), ("OTEL_EXPORTER_OTLP_HEADERS_FILE", file.path().to_str().unwrap())];
    let (api, aggregator) = (system.api(&[]).await, system.aggregator(&of_file).await);
    assert!(exports(&api) && exports(&aggregator));
    let topic = &system.topic;

    // The escape makes the second one take the way through the router.
    for (offset, product) in [(0, "p1"), (1, "p%32")] {
        let parent = format!("{PARENT}{offset}")[1..].to_owned();
        like(&api, product, &[("traceparent", &format!("00-{TRACE}-{parent}-01")), ("tracestate", "a=1,b=2")]).await;

        let server = collector.span("the span of the request", |span| span.parent_id == parent).await;
        assert_eq!((server.name.as_str(), server.kind), ("PUT /v1/products/{productId}/like", 2));
        assert_eq!((server.trace_id.as_str(), server.status), (TRACE, 0));
        for (name, value) in [
            ("http.request.method", "PUT"),
            ("http.route", "/v1/products/{productId}/like"),
            ("http.response.status_code", "202"),
            ("url.path", &format!("/v1/products/{product}/like")),
        ] {
            assert_eq!(server.attribute(name), value, "{name} of {server:?}");
        }
        for (name, value) in [("service.name", "like-api"), ("deployment.environment.name", "test")] {
            assert_eq!(server.resource.get(name).map(String::as_str), Some(value), "{server:?}");
        }

        let sent = collector.span("the span of the event", |span| span.parent_id == server.span_id).await;
        assert_eq!((sent.name.as_str(), sent.kind), (&*format!("send {topic}"), 4));
        assert_eq!(sent.trace_id, TRACE);
        for (name, value) in [
            ("messaging.system", "kafka"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", topic),
            ("messaging.destination.partition.id", "0"),
            ("messaging.kafka.offset", &offset.to_string()),
        ] {
            assert_eq!(sent.attribute(name), value, "{name} of {sent:?}");
        }
        let carried = [
            ("traceparent".to_owned(), format!("00-{TRACE}-{}-01", sent.span_id)),
            ("tracestate".to_owned(), "a=1,b=2".to_owned()),
        ];
        assert_eq!(record_headers(topic, offset), carried);

        let link = (TRACE.to_owned(), sent.span_id.clone());
        let batch = collector.span("the span of its batch", |span| is_batch(span) && span.links.contains(&link)).await;
        assert_eq!((batch.name.as_str(), batch.kind, batch.status), (&*format!("process {topic}"), 5, 0));
        // A batch links to many traces and is part of none.
        assert_ne!(batch.trace_id, TRACE);
        assert_eq!(batch.resource["service.name"], "like-aggregator");
        assert_eq!(batch.attribute("messaging.batch.message_count"), "1");
        assert_eq!(batch.attribute("messaging.consumer.group.name"), format!("group-of-{topic}"));
        let transaction = collector.span("its transaction", |span| span.parent_id == batch.span_id).await;
        assert_eq!((transaction.name.as_str(), transaction.status), ("transaction", 0));
    }
    for head in collector.requests() {
        assert!(head.starts_with("POST /v1/traces ") && head.to_lowercase().contains("x-api-key: k%41"), "{head}");
    }
    let all = format!("{:?}", collector.spans());
    assert!(!all.contains("hidden-user") && !all.contains("hidden-query"), "{all}");
    for service in [&api, &aggregator] {
        until("spans are counted", async || {
            service.metric("likes_trace_spans_total", "outcome=\"exported\"").await >= 4.0
        })
        .await;
    }
}

#[tokio::test]
async fn likes_of_one_request_share_a_span() {
    let collector = TestCollector::start().await;
    let system = traced(&collector.url).await;
    let api = system.api(&[]).await;
    let body = r#"{"likes":[{"productId":"p1","liked":true},{"productId":"p2","liked":true}]}"#;
    let request = api.http.post(format!("{}/v1/likes", api.url)).header("X-User-Id", "u");
    let request =
        request.header("Content-Type", "application/json").header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let server = collector.span("the span of the request", |span| span.parent_id == PARENT).await;
    assert_eq!(server.name, "POST /v1/likes");
    let sent = collector.span("the span of the events", |span| span.parent_id == server.span_id).await;
    assert_eq!((sent.name, sent.kind), (format!("send {}", system.topic), 4));
    assert_eq!(sent.attributes["messaging.batch.message_count"], "2");
    for offset in 0..2 {
        let carried = [("traceparent".to_owned(), format!("00-{TRACE}-{}-01", sent.span_id))];
        assert_eq!(record_headers(&system.topic, offset), carried);
    }
}

#[tokio::test]
async fn caller_decides_about_sampling() {
    let collector = TestCollector::start().await;
    let system = traced(&collector.url).await;
    let (api, _aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    like(&api, "p1", &[("traceparent", &format!("00-{TRACE}-{PARENT}-00"))]).await;
    system.folded(1).await;
    like(&api, "p1", &[("traceparent", &format!("00-{TRACE}-{PARENT}-01-x"))]).await;
    // Spans arrive in the order in which they end: those of the first like would have arrived.
    let server = collector.span("the span of a request", |span| span.kind == 2).await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id != TRACE), "{spans:?}");
    let first = record_headers(&system.topic, 0);
    assert!(first[0].1.starts_with(&format!("00-{TRACE}-")) && first[0].1.ends_with("-00"), "{first:?}");
    assert_eq!(server.parent_id, "");
    let batch = collector.span("a batch with a link", |span| is_batch(span) && !span.links.is_empty()).await;
    assert_eq!(batch.links[0].0, server.trace_id);
}

#[tokio::test]
async fn trace_passes_on_without_a_collector() {
    let system = TestSystem::set_up(1).await;
    let (api, aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    let (parent, state) = (format!("00-{TRACE}-{PARENT}-01"), "a=1");
    let headers = [("traceparent", parent.as_str()), ("tracestate", state)];
    let carried = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    like(&api, "p1", &headers).await;
    like(&api, "p%32", &headers).await;
    like(&api, "p3", &[]).await;
    like(&api, "p4", &[("traceparent", "nonsense"), ("tracestate", state)]).await;
    for (offset, expected) in [(0, &carried[..]), (1, &carried), (2, &[]), (3, &[])] {
        assert_eq!(record_headers(&system.topic, offset), expected, "{offset}");
    }
    system.folded(4).await;
    assert!(!exports(&api) && !exports(&aggregator));
    assert!(!(api.process.log() + &aggregator.process.log()).contains("spans"));
}

#[tokio::test]
async fn missing_collector_disturbs_nothing() {
    // One refuses connections, and one accepts them and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for collector in [free_addr(), silent.local_addr().unwrap()] {
        let mut system = traced(&format!("http://{collector}")).await;
        system.set("OTEL_EXPORTER_OTLP_TIMEOUT", "300");
        let (mut api, mut aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
        for service in [&api, &aggregator] {
            // Repeated, since each export could log the failure.
            for _ in 0..3 {
                let failed = async || service.metric("likes_trace_spans_total", "outcome=\"failed\"").await;
                let before = failed().await;
                like(&api, "p1", &[]).await;
                until("spans fail", async || failed().await > before).await;
            }
        }
        system.folded(6).await;
        for service in [&mut api, &mut aggregator] {
            until("the failure is logged", async || service.process.log().contains("takes no spans")).await;
            let (status, took) = service.stop().await;
            assert!(status.success() && took < Duration::from_secs(10), "{status} {took:?}");
            let log = service.process.log();
            assert_eq!(log.matches("takes no spans").count(), 1, "{log}");
        }
    }
}

#[tokio::test]
async fn last_spans_are_exported_at_the_end() {
    let collector = TestCollector::start().await;
    let mut system = traced(&collector.url).await;
    // No export before the end.
    system.set("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let (mut api, mut aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    like(&api, "p1", &[]).await;
    system.folded(1).await;
    assert_eq!(collector.spans().len(), 0);
    for service in [&mut aggregator, &mut api] {
        let (status, took) = service.stop().await;
        assert!(status.success() && took < Duration::from_secs(10), "{status} {took:?}");
    }
    let spans = collector.spans();
    for (service, kinds) in [(&api, &[2, 4][..]), (&aggregator, &[5])] {
        // On a busy machine the export may time out, which is logged.
        let late = service.process.log().contains("the last spans were not exported in time");
        let exported = kinds.iter().all(|kind| spans.iter().any(|span| span.kind == *kind));
        assert!(exported || late, "{kinds:?} are not in {spans:?}");
    }
}

#[tokio::test]
async fn unsupported_otel_setting_is_refused() {
    let mut system = traced("http://127.0.0.1:4318").await;
    system.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    for (program, args) in [("like-api", &[][..]), ("like-aggregator", &["run"])] {
        let output = system.command_of(program, args).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("OTEL_EXPORTER_OTLP_PROTOCOL is not supported") && error.contains("http/protobuf"),
            "{error}"
        );
    }
    // Commands that export nothing ignore it.
    system.succeeds(&["status"]).await;
}
