//! What the admin port tells Prometheus.

use like_testkit::{TestDatabase, TestTopic, eventually};
use reqwest::Method;

use crate::common::{Api, config};

#[tokio::test]
async fn metrics_count_routes_and_outcomes() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    let api = Api::ready(&topic, &database).await;
    api.like("p1", "u1").await;
    api.like("p2", "u1").await;
    api.like("p%20", "u1").await;
    api.get("/v1/products/p3/likes").await;
    api.get("/nowhere/at/all").await;
    api.send(Method::from_bytes(b"BREW").unwrap(), "/v1/likes", &[]).await;
    let text = api.http.get(format!("{}/metrics", api.admin)).send().await.unwrap().text().await.unwrap();

    for (method, route, status, count) in [
        ("PUT", "/v1/products/{productId}/like", 202, 2),
        ("PUT", "/v1/products/{productId}/like", 400, 1),
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
        "likes_producer_queued_events 0",
        // All have their answers.
        "http_server_active_requests 0",
        "db_client_connection_max{db_client_connection_pool_name=\"likes\"} ",
        "process_cpu",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    // What callers make up is no label.
    for made_up in ["p1", "p3", "nowhere", "BREW"] {
        assert!(!text.contains(made_up), "{made_up} is in {text}");
    }
}

#[tokio::test]
async fn connection_timeouts_are_counted() {
    let api = Api::start(config("test-nowhere", "postgres://nobody@127.0.0.1:1/nowhere")).await;
    api.get("/v1/products/p1/likes").await.assert_problem(503, "reads-unavailable");
    let pool = "{db_client_connection_pool_name=\"likes\"}";
    let none = format!("db_client_connection_timeouts_total{pool} 0\n");
    // Of the process, in which other tests may be waiting for a while.
    let nobody_waits = format!("db_client_connection_pending_requests{pool} 0\n");
    eventually("it is counted, and nobody waits any more", async || {
        let text = api.http.get(format!("{}/metrics", api.admin)).send().await.unwrap().text().await.unwrap();
        (!text.contains(&none) && text.contains(&nobody_waits)).then_some(())
    })
    .await;
}
