//! The metrics of the admin port.

use like_testkit::until;
use reqwest::Method;

use crate::common::{Api, TestApp};

#[tokio::test]
async fn metrics_count_routes_and_outcomes() {
    let api = TestApp::ready(1).await;
    api.like("p1", "u1").await;
    api.like("p2", "u1").await;
    api.like("p%20", "u1").await;
    api.get("/v1/products/p3/likes").await;
    api.get("/nowhere/at/all").await;
    api.send(Method::from_bytes(b"BREW").unwrap(), "/v1/likes", &[]).await;
    let text = api.metrics().await;
    for (method, route, status, count) in [
        ("PUT", "/v1/products/{productId}/like", 202, 2),
        ("PUT", "/v1/products/{productId}/like", 400, 1),
        ("PUT", "/v1/products/{productId}/like", 504, 0),
        ("GET", "/v1/receipts/{receipt}", 503, 0),
        ("GET", "/v1/products/{productId}/likes", 200, 1),
        ("GET", "", 404, 1),
        ("_OTHER", "/v1/likes", 405, 1),
    ] {
        let line = format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"{method}\",\
             http_response_status_code=\"{status}\",http_route=\"{route}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    for (outcome, count) in [("acknowledged", 2), ("queue_full", 0), ("rejected", 0), ("unknown", 0)] {
        let line = format!(
            "messaging_client_sent_messages_total{{messaging_system=\"kafka\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    for name in [
        "messaging_client_operation_duration_seconds_count",
        "likes_producer_queued_events{producer=\"immediate\"} 0",
        "likes_producer_queued_events{producer=\"gathering\"} 0",
        // All are answered.
        "http_server_active_requests 0",
        "db_client_connection_max{db_client_connection_pool_name=\"likes\"} ",
        "process_cpu",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    // Text of callers is never a label.
    for made_up in ["p1", "p3", "nowhere", "BREW"] {
        assert!(!text.contains(made_up), "{made_up} is in {text}");
    }
}

#[tokio::test]
async fn connection_timeouts_are_counted() {
    let api = Api::alone(|_| ()).await;
    api.get("/v1/products/p1/likes").await.assert_problem(503, "reads-unavailable");
    let pool = "{db_client_connection_pool_name=\"likes\"}";
    let none = format!("db_client_connection_timeouts_total{pool} 0\n");
    // Of the whole process: other tests may still be waiting.
    let no_waiter = format!("db_client_connection_pending_requests{pool} 0\n");
    until("it is counted, and no query waits", async || {
        let text = api.metrics().await;
        !text.contains(&none) && text.contains(&no_waiter)
    })
    .await;
}
