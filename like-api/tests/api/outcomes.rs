//! The answers and metrics of likes that aren't acknowledged, and of a bug: the routes without a
//! listener, on brokers that fail.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use http_body_util::BodyExt;
use like_api::app::AppState;
use like_api::http::middleware::request_context::observe;
use like_api::http::router::router;
use like_api::metrics::Metrics;
use like_api::publish::write_gate::OpenGate;
use prometheus::Registry;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;
use tower::ServiceExt;

use crate::common::{NO_DATABASE, config};
use crate::publisher::{NO_BROKER, Published, mock, publisher};

/// The state of the handlers, with an open write gate.
fn state(published: &Published, registry: &Registry) -> Arc<AppState> {
    let config = config("t", NO_DATABASE);
    let metrics = Metrics::new(registry);
    let state = AppState::new(&config, Arc::clone(&published.publisher), metrics, registry).unwrap();
    state.gate.set(Ok(OpenGate { sequence: 1, time_ordered_ids_from: None }));
    Arc::new(state)
}

async fn like(router: &Router) -> (Response<()>, Value) {
    answer(router, Request::put("/v1/products/p1/like").header("X-User-Id", "u1").body(Body::empty()).unwrap()).await
}

/// The problems of many likes; null: acknowledged.
async fn like_many(router: &Router, number: usize) -> Vec<Value> {
    let body = serde_json::json!({ "likes": vec![serde_json::json!({ "productId": "p1", "liked": true }); number] });
    let request = Request::post("/v1/likes").header("X-User-Id", "u1").header("Content-Type", "application/json");
    let (response, json) = answer(router, request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK, "{json}");
    json["results"].as_array().unwrap().iter().map(|result| result["problem"].clone()).collect()
}

async fn answer(router: &Router, request: Request<Body>) -> (Response<()>, Value) {
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let json = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    (Response::from_parts(parts, ()), json)
}

#[tokio::test]
async fn perhaps_written_like_is_504() {
    let mock = mock("t");
    let published = publisher(&mock.bootstrap_servers(), "t", &[]);
    published.warm().await;
    mock.broker_round_trip_time(-1, Duration::from_mins(1)).unwrap();
    let (response, problem) = like(&router(state(&published, &Registry::new()))).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(problem["type"], "/problems/outcome-unknown");
    assert_eq!(problem["detail"], "outcome unknown: retry with the same Idempotency-Key");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    // A retry needs the same key, not a pause.
    assert!(!response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn unwritten_like_is_503() {
    let published = publisher(NO_BROKER, "t", &[("queue.buffering.max.messages", "1")]);
    let router = router(state(&published, &Registry::new()));
    // The first times out without a broker, the second finds the queue full.
    let answers = tokio::join!(like(&router), like(&router));
    for (response, problem) in [answers.0, answers.1] {
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(problem["type"], "/problems/not-accepted");
        assert_eq!(response.headers()["retry-after"], "1");
        // Without librdkafka's text.
        assert_eq!(problem["detail"], "nothing was written; try again");
    }
}

#[tokio::test]
async fn many_likes_fail_each_on_its_own() {
    // The first two wait for a broker, the others find the queue full.
    let published = publisher(NO_BROKER, "t", &[("queue.buffering.max.messages", "2")]);
    let registry = Registry::new();
    let problems = like_many(&router(state(&published, &registry)), 5).await;
    assert_eq!(problems.len(), 5);
    for (place, problem) in problems.iter().enumerate() {
        assert_eq!(
            (&problem["type"], &problem["status"]),
            (&"/problems/not-accepted".into(), &503.into()),
            "{problem}"
        );
        assert_eq!((&problem["pointer"], &problem["retryAfter"]), (&format!("/likes/{place}").into(), &1.into()));
    }
    assert_eq!((published.counted("queue_full"), published.counted("rejected"), published.queued("")), (3, 2, 0));

    let mock = mock("t");
    let published = publisher(&mock.bootstrap_servers(), "t", &[]);
    published.warm().await;
    mock.broker_round_trip_time(-1, Duration::from_mins(1)).unwrap();
    for problem in like_many(&router(state(&published, &Registry::new())), 2).await {
        assert_eq!(
            (&problem["type"], &problem["status"]),
            (&"/problems/outcome-unknown".into(), &504.into()),
            "{problem}"
        );
        assert_eq!(problem["detail"], "outcome unknown: send it again with the same key");
        assert!(problem.get("retryAfter").is_none(), "{problem}");
    }
}

#[tokio::test]
async fn event_above_the_topics_limit_is_413() {
    let mock = mock("t");
    let published = publisher(&mock.bootstrap_servers(), "t", &[]);
    published.publisher.fit_batches(150);
    published.warm().await;
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let (response, problem) = like(&router(state(&published, &Registry::new()))).await;
    assert_eq!(
        (response.status(), &problem["type"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &"/problems/payload-too-large".into())
    );
}

#[tokio::test]
async fn failing_brokers_lower_the_limit() {
    let published = publisher(NO_BROKER, "t", &[]);
    let registry = Registry::new();
    let router = router(state(&published, &registry));
    let limit = || {
        let limit = registry.gather().into_iter().find(|family| family.name() == "likes_in_progress_limit").unwrap();
        limit.get_metric()[0].get_gauge().get_value()
    };
    assert_eq!(limit(), 20_000.0);
    let answers = futures::future::join_all((0..20).map(|_| like(&router))).await;
    assert!(answers.iter().all(|(response, _)| response.status() == StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(limit(), 256.0);
}

#[tokio::test]
async fn panic_is_500_without_details() {
    let state = state(&publisher(NO_BROKER, "t", &[]), &Registry::new());
    let panics = Router::new().route("/", get(async || -> &'static str { panic!("secret") }));
    let router = panics.layer(from_fn_with_state(state, observe));
    let request = Request::get("/").header("X-Request-Id", "r-1").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()["x-request-id"], "r-1");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&problem["type"], &problem["requestId"]), (&"/problems/internal".into(), &"r-1".into()));
    assert!(!String::from_utf8_lossy(&body).contains("secret"));
}
