//! A like's trace, from the caller's request to the batch that counts it: real services, and a
//! collector that remembers what it is sent.

use std::io::Write as _;
use std::time::Duration;

use like_testkit::process::free_addr;
use like_testkit::{TestCollector, TestService, TestSpan, TestSystem, eventually};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Sends `headers` with a like, and answers once it is acknowledged.
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

/// Whether a thread of the SDK is there.
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
async fn a_like_is_followed_from_the_callers_trace_to_the_batch_that_counts_it() {
    let collector = TestCollector::start().await;
    let system = traced(&collector.url).await;
    // What is secret in them may come from a file.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "x-api-key=k%2541").unwrap();
    let of_file =
        [("OTEL_EXPORTER_OTLP_HEADERS", ""), ("OTEL_EXPORTER_OTLP_HEADERS_FILE", file.path().to_str().unwrap())];
    let (api, aggregator) = (system.api(&[]).await, system.aggregator(&of_file).await);
    assert!(exports(&api) && exports(&aggregator));
    let topic = &system.topic;

    // The second one is spelled so that the router takes it.
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
        // A batch is of many traces, and so of none of them.
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
        eventually("spans are counted", async || {
            let exported = service.metric("likes_trace_spans_total", "outcome=\"exported\"").await;
            (exported >= 4.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_caller_decides_whether_its_trace_is_recorded_and_a_broken_one_counts_for_nothing() {
    let collector = TestCollector::start().await;
    let system = traced(&collector.url).await;
    let (api, _aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    like(&api, "p1", &[("traceparent", &format!("00-{TRACE}-{PARENT}-00"))]).await;
    system.folded(1).await;
    like(&api, "p1", &[("traceparent", &format!("00-{TRACE}-{PARENT}-01-x"))]).await;
    // A service's spans come in the order in which they end: those of the first like would be there.
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
async fn without_a_collector_a_callers_trace_is_passed_on_and_nothing_else_is_done() {
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
async fn with_the_collector_away_likes_are_counted_and_the_services_end_in_time() {
    // One that refuses connections, and one that takes them and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for collector in [free_addr(), silent.local_addr().unwrap()] {
        let mut system = traced(&format!("http://{collector}")).await;
        system.set("OTEL_EXPORTER_OTLP_TIMEOUT", "300");
        let (mut api, mut aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
        for service in [&api, &aggregator] {
            // Again and again, since each export may say so.
            for _ in 0..3 {
                let failed = service.metric("likes_trace_spans_total", "outcome=\"failed\"").await;
                like(&api, "p1", &[]).await;
                eventually("spans fail", async || {
                    let now = service.metric("likes_trace_spans_total", "outcome=\"failed\"").await;
                    (now > failed).then_some(())
                })
                .await;
            }
        }
        system.folded(6).await;
        for service in [&mut api, &mut aggregator] {
            eventually("it says so", async || service.process.log().contains("takes no spans").then_some(())).await;
            let (status, took) = service.stop().await;
            assert!(status.success() && took < Duration::from_secs(10), "{status} {took:?}");
            let log = service.process.log();
            assert_eq!(log.matches("takes no spans").count(), 1, "{log}");
        }
    }
}

#[tokio::test]
async fn what_was_recorded_last_is_exported_before_the_end() {
    let collector = TestCollector::start().await;
    let mut system = traced(&collector.url).await;
    // Nothing is exported by itself.
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
        // On a machine that is too busy it may not manage in time, and says so.
        let late = service.process.log().contains("the last spans were not exported in time");
        let there = kinds.iter().all(|kind| spans.iter().any(|span| span.kind == *kind));
        assert!(there || late, "{kinds:?} are not in {spans:?}");
    }
}

#[tokio::test]
async fn a_setting_of_opentelemetry_that_is_not_supported_is_refused_at_the_start() {
    let mut system = traced("http://127.0.0.1:4318").await;
    system.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    for (program, args) in [("like-api", &[][..]), ("like-aggregator", &["run"])] {
        let output = system.command_of(program, args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.contains("OTEL_EXPORTER_OTLP_PROTOCOL is not supported") && said.contains("http/protobuf"),
            "{said}"
        );
    }
    // Commands that export nothing don't care.
    assert!(system.command(&["status"]).await.status.success());
}
