//! Liking and unliking: an acknowledged event is in the log.

use std::collections::BTreeSet;

use like_events::Receipt;
use like_testkit::TestTopic;
use rdkafka::message::Message;
use reqwest::Method;
use serde_json::Value;

use crate::common::{Answer, TestApp, record_at};

/// The record at the receipt of an acknowledged like, as key and JSON.
fn acknowledged(topic: &TestTopic, answer: &Answer) -> (String, Value) {
    assert_eq!(answer.status, 202, "{answer:?}");
    let receipt = answer.json["receipt"].as_str().unwrap();
    let location = answer.header("location").to_owned();
    let at: Receipt = receipt.parse().unwrap();
    assert_eq!(at.sequence, 1);
    let record = record_at(&topic.name, at.partition, at.offset);
    let time = chrono::DateTime::from_timestamp_millis(record.timestamp().to_millis().unwrap()).unwrap();
    let time = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let event_id = answer.json["eventId"].as_str().unwrap();
    assert_eq!(location, format!("/v1/receipts/{receipt}?eventId={event_id}&recordTime={time}"));
    let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
    (key, serde_json::from_slice(record.payload().unwrap()).unwrap())
}

#[tokio::test]
async fn acknowledged_like_is_at_its_receipt() {
    let api = TestApp::ready(4).await;
    for (method, liked, kind) in [(Method::PUT, true, "LIKED"), (Method::DELETE, false, "UNLIKED")] {
        let answer = api.send(method, "/v1/products/p42/like", &[("X-User-Id", "auth0|u7")]).await;
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json["productId"], "p42");
        assert_eq!(answer.json["liked"], liked);
        let members = answer.json.as_object().unwrap().keys().collect::<BTreeSet<_>>();
        assert!(members.into_iter().eq(["eventId", "liked", "productId", "receipt"]), "{answer:?}");

        let (key, event) = acknowledged(&api.topic, &answer);
        assert_eq!(key, "p42");
        assert_eq!(event["eventId"], answer.json["eventId"]);
        assert_eq!(event["type"], kind);
        assert_eq!(event["productId"], "p42");
        assert_eq!(event["userId"], "auth0|u7");
        assert!(like_events::decode(Some(b"p42"), Some(event.to_string().as_bytes())).is_ok(), "{event}");
    }
}

#[tokio::test]
async fn percent_encoded_product_id_is_decoded() {
    let api = TestApp::ready(4).await;
    for (path, id) in [("a:b~c", "a:b~c"), ("a%3Ab%7Ec", "a:b~c"), ("%70%34%32", "p42"), ("...", "...")] {
        let answer = api.like(path, "u1").await;
        assert_eq!(answer.json["productId"], id, "{answer:?}");
        assert_eq!(acknowledged(&api.topic, &answer).0, id);
    }
}

#[tokio::test]
async fn idempotency_key_names_one_click() {
    let api = TestApp::ready(4).await;
    let click = async |method: Method, product: &str, user: &str, key: &str| {
        let headers = [("X-User-Id", user), ("Idempotency-Key", key)];
        let answer = api.send(method, &format!("/v1/products/{product}/like"), &headers).await;
        assert_eq!(acknowledged(&api.topic, &answer).1["eventId"], answer.json["eventId"]);
        answer.json["eventId"].as_str().unwrap().to_owned()
    };
    let first = click(Method::PUT, "p1", "u1", "k").await;
    assert_eq!(first, click(Method::PUT, "p1", "u1", "k").await);
    assert_eq!(first, click(Method::PUT, "p1", "u1", "\"k\"").await, "quoted is the same key");
    for other in [
        click(Method::PUT, "p1", "u2", "k").await,
        click(Method::PUT, "p2", "u1", "k").await,
        click(Method::DELETE, "p1", "u1", "k").await,
        click(Method::PUT, "p1", "u1", "K").await,
        click(Method::PUT, "p1", "u1", "\"\\\"k\\\"\"").await,
    ] {
        assert_ne!(first, other);
    }
}

#[tokio::test]
async fn without_key_every_click_is_an_event() {
    let api = TestApp::ready(4).await;
    let (first, second) = (api.like("p1", "u1").await, api.like("p1", "u1").await);
    assert_ne!(first.json["eventId"], second.json["eventId"]);
    assert_ne!(first.json["receipt"], second.json["receipt"]);
}
