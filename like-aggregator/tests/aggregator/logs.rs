//! Logs as a log store reads them: one JSON object per line, and its fields. Outputs that take no lines.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use like_testkit::process::{TestProcess, command};
use like_testkit::{TestService, TestSystem, eventually, until};
use serde_json::Value;

use crate::common::full_socket;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// All complete lines so far. Serde keeps one of two fields with the same name, so a line must be as long as
/// its parsed value.
fn lines(service: &TestService) -> Vec<Value> {
    let log = service.process.log();
    let complete = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
    let read = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(value.to_string().len(), line.len(), "a field is duplicated: {line}");
        for field in ["timestamp", "level", "target"] {
            assert!(value[field].is_string(), "{field} in {line}");
        }
        value
    };
    complete.lines().map(read).collect()
}

#[tokio::test]
async fn each_line_is_a_json_object() {
    let mut system = TestSystem::set_up(1).await;
    system.set("LOG_FORMAT", "json");
    system.set("RUST_LOG", "info,like_api::access=debug,like_aggregator=debug");
    let (api, aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    let request = |path: &str, id: &'static str| {
        let request = api.http.put(format!("{}{path}", api.url)).header("X-Request-Id", id);
        request.header("X-User-Id", "hidden-user").header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
    };
    // Past the router, through it, and to no route. An id from outside can't break a line.
    for (path, id, status) in [
        ("/v1/products/p1/like?hidden=query", "plain", 202),
        ("/v1/products/p%32/like", "quote\"d\\n", 202),
        ("/hidden/path", "r3", 404),
    ] {
        let answer = request(path, id).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["x-request-id"], id);
        let line = eventually("the line of the request", async || {
            lines(&api).into_iter().find(|line| line["request_id"] == id)
        })
        .await;
        assert_eq!(line["target"], "like_api::access");
        assert_eq!(line["method"], "PUT");
        assert_eq!(line["route"], if status == 202 { "/v1/products/{productId}/like" } else { "" });
        assert_eq!(line["status"], status);
        assert_eq!(line["trace_id"], TRACE);
        assert!(line["duration_us"].as_u64().is_some_and(|took| took > 0), "{line}");
        assert_eq!(line.as_object().unwrap().len(), 10, "no more than that: {line}");
    }
    assert!(!api.process.log().contains("hidden"), "{}", api.process.log());

    system.folded(2).await;
    let committed = |line: &Value| line["message"] == "batch committed" && line["events"].is_u64();
    until("the line of a batch", async || lines(&aggregator).iter().any(committed)).await;
}

#[tokio::test]
async fn successful_request_has_no_line() {
    let mut system = TestSystem::set_up(1).await;
    system.unset("RUST_LOG");
    let mut api = system.api(&[]).await;
    api.client().click("u1", "p1", true, "k1").await;
    let (status, _) = api.stop().await;
    assert!(status.success());
    let log = api.process.log();
    assert!(!log.contains("answered") && log.ends_with("shut down\n"), "{log}");
}

fn closed_pipe() -> OwnedFd {
    let (_, writer) = io::pipe().unwrap();
    writer.into()
}

fn full_disk() -> OwnedFd {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn unwritable_logs_stop_no_service() {
    let mut system = TestSystem::set_up(1).await;
    system.set("RUST_LOG", "trace");
    let (stalled, _unread) = full_socket();
    for (name, output, fails) in
        [("closed", closed_pipe(), true), ("full", full_disk(), true), ("stalled", stalled, false)]
    {
        let mut api = system.start_saying_to(&output, "like-api", &[]);
        let mut aggregator = system.start_saying_to(&output, "like-aggregator", &["run"]);
        for service in [&mut api, &mut aggregator] {
            service.wait_until_ready().await;
        }
        let liked = api.client().click("u", name, true, name).await;
        api.client().wait_until_counted(&liked.receipt).await;
        for service in [&mut api, &mut aggregator] {
            let dropped = async || service.metric("likes_log_lines_dropped_total", "").await > 0.0;
            if fails {
                until(&format!("{name}: lines are counted"), dropped).await;
            }
            let (status, _) = service.stop().await;
            assert!(status.success(), "{name}: {status}");
        }
    }
}

#[tokio::test]
async fn closed_output_ends_quietly() {
    let system = TestSystem::set_up(1).await;
    let status_of = async |output: OwnedFd, args: &[&str]| {
        let command = command("like-aggregator", args, &system.settings());
        TestProcess::start_saying_to(&output, args[0], command).ended().await.code()
    };
    for (args, code) in [
        (&["status"][..], 0),
        (&["rebuild", "--yes"], 0),
        (&["setup"], 0),
        (&["status", "--help"], 0),
        (&["status", "--topic", "another"], 2),
        (&["status", "--colour"], 2),
    ] {
        assert_eq!(status_of(closed_pipe(), args).await, Some(code), "{args:?}");
    }
    assert_eq!(status_of(full_disk(), &["status"]).await, Some(2), "the result is lost");
}

#[tokio::test]
async fn malformed_level_is_refused() {
    let mut system = TestSystem::new().await;
    system.set("RUST_LOG", "info,like_api=loud");
    system.refused(&["status"], &["error: RUST_LOG can't be 'info,like_api=loud'", "debug"]).await;
    let api = system.command_of("like-api", &[]).await;
    assert_eq!(api.status.code(), Some(2), "{api:?}");
}
