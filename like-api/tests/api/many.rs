//! `POST /v1/likes`: many likes in one request, each with its own result.

use std::num::NonZeroU32;

use like_events::Receipt;
use rdkafka::message::{Headers, Message};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{Answer, Api, TestApp, record_at};
use crate::wire::Wire;

const MANY: &str = "/v1/likes";
const ADA: (&str, &str) = ("X-User-Id", "ada");

impl Api {
    /// Sends this body as JSON.
    async fn post(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers: Vec<_> = headers.iter().copied().chain([("Content-Type", "application/json")]).collect();
        self.send_body(Method::POST, MANY, &headers, body).await
    }

    async fn like_many(&self, user: &str, likes: &Value) -> Answer {
        self.post(&[("X-User-Id", user)], &json!({ "likes": likes }).to_string()).await
    }
}

fn results(answer: &Answer) -> &Vec<Value> {
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"), "{answer:?}");
    answer.json["results"].as_array().unwrap()
}

/// The event at the receipt of a result, as its key and JSON.
fn event(api: &TestApp, result: &Value) -> (Receipt, Value) {
    let receipt: Receipt = result["receipt"].as_str().unwrap_or_else(|| panic!("{result}")).parse().unwrap();
    let record = record_at(&api.topic.name, receipt.partition, receipt.offset);
    let value: Value = serde_json::from_slice(record.payload().unwrap()).unwrap();
    assert_eq!(record.key().unwrap(), value["productId"].as_str().unwrap().as_bytes());
    for (member, of_result) in [("eventId", "eventId"), ("productId", "productId")] {
        assert_eq!(value[member], result[of_result]);
    }
    assert_eq!(value["type"] == "LIKED", result["liked"].as_bool().unwrap());
    (receipt, value)
}

#[tokio::test]
async fn each_like_is_acknowledged_in_order() {
    let api = TestApp::ready_with(4, |config| config.limits.rate_limit_user = 0.0).await;
    let likes: Vec<_> = (0..100).map(|n| json!({ "productId": format!("p{}", n % 7), "liked": n % 3 > 0 })).collect();
    let answer = api.like_many("ada", &json!(likes)).await;
    let results = results(&answer);
    assert_eq!(results.len(), 100);
    let mut last = std::collections::HashMap::new();
    for (like, result) in likes.iter().zip(results) {
        assert_eq!((&like["productId"], &like["liked"]), (&result["productId"], &result["liked"]));
        let (receipt, event) = event(&api, result);
        assert_eq!(event["userId"], "ada");
        let before = last.insert(result["productId"].to_string(), receipt.offset);
        assert!(before.is_none_or(|before| before < receipt.offset), "{result}");
    }
    assert_eq!(api.topic.end_offsets().iter().sum::<i64>(), 100);
    assert_eq!(api.port.metric("messaging_client_sent_messages_total", "outcome=\"acknowledged\"").await, 100.0);
}

#[tokio::test]
async fn invalid_like_hinders_no_other() {
    let api = TestApp::ready(1).await;
    let likes = json!([
        { "productId": "p1", "liked": true },
        { "productId": "a b", "liked": true },
        { "productId": "", "liked": 1 },
        7,
        { "productId": "p2", "liked": false, "userId": "eve" },
        { "productId": "p3", "liked": true, "key": "k" },
    ]);
    let answer = api.like_many("ada", &likes).await;
    let results = results(&answer);
    for place in [0, 5] {
        assert_eq!(event(&api, &results[place]).1["userId"], "ada");
    }
    for (place, pointer, faults) in
        [(1, "/likes/1/productId", 1), (2, "/likes/2", 2), (3, "/likes/3", 1), (4, "/likes/4/userId", 1)]
    {
        let problem = &results[place]["problem"];
        assert_eq!((&problem["type"], &problem["status"]), (&"/problems/invalid-request".into(), &400.into()));
        assert_eq!((&problem["pointer"], problem["errors"].as_array().unwrap().len()), (&pointer.into(), faults));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    assert!(results[4]["problem"]["detail"].as_str().unwrap().contains("BATCH_USER_IDS_FROM"), "{answer:?}");
    assert_eq!(api.topic.end_offsets(), [2]);
}

#[tokio::test]
async fn repeat_with_the_same_keys_is_the_same_events() {
    let api = TestApp::ready(4).await;
    let likes = json!([
        { "productId": "p1", "liked": true, "key": "a \"key\"" },
        { "productId": "p1", "liked": false, "key": "k" },
        { "productId": "p2", "liked": true, "key": "k" },
    ]);
    let ids = async |user| {
        let answer = api.like_many(user, &likes).await;
        results(&answer).iter().map(|result| result["eventId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = ids("ada").await;
    assert_eq!(first, ids("ada").await);
    assert!(ids("eve").await.iter().all(|id| !first.contains(id)));
    // The same click sent alone.
    let headers = [ADA, ("Idempotency-Key", r#""a \"key\"""#)];
    let alone = api.send(Method::PUT, "/v1/products/p1/like", &headers).await;
    assert_eq!(alone.json["eventId"], first[0]);
}

#[tokio::test]
async fn whole_request_is_refused() {
    let api = TestApp::ready(1).await;
    let many = json!({ "likes": vec![json!({ "productId": "p1", "liked": true }); 101] }).to_string();
    let invalid = "invalid-request";
    for (headers, body, status, name, pointer) in [
        (&[ADA][..], "", 400, invalid, ""),
        (&[ADA], "{\"likes\":[", 400, invalid, ""),
        (&[ADA], "[]", 400, invalid, ""),
        (&[ADA], "{}", 400, invalid, "/likes"),
        (&[ADA], "{\"likes\":[]}", 400, invalid, "/likes"),
        (&[ADA], &many, 400, invalid, "/likes"),
        (&[ADA], &"x".repeat(128 * 1024 + 1), 413, "payload-too-large", ""),
        (&[], "{\"likes\":[]}", 401, "unauthenticated", ""),
    ] {
        let answer = api.post(headers, body).await;
        answer.assert_problem(status, name);
        if status == 400 {
            assert_eq!(answer.json["errors"][0]["pointer"], pointer, "{answer:?}");
        }
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonl", ""] {
        let answer = api.send_body(Method::POST, MANY, &[ADA, ("Content-Type", kind)], "{\"likes\":[]}").await;
        answer.assert_problem(415, "unsupported-media-type");
    }
    let kind = ("Content-Type", "Application/JSON; charset=utf-8");
    let answer = api.send_body(Method::POST, MANY, &[ADA, kind], "{\"likes\":[]}").await;
    answer.assert_problem(400, invalid);
    assert_eq!(api.topic.end_offsets(), [0]);
}

#[tokio::test]
async fn request_counts_as_its_likes() {
    let api = TestApp::ready_with(1, |config| {
        config.limits.rate_limit_user = 0.001;
        config.limits.rate_limit_user_burst = NonZeroU32::new(5).unwrap();
    })
    .await;
    let likes = |number| json!(vec![json!({ "productId": "p1", "liked": true }); number]);
    let answer = api.like_many("ada", &likes(3)).await;
    assert_eq!(results(&answer).len(), 3);
    assert_eq!(answer.header("ratelimit"), "\"user\";r=2");
    assert_eq!(answer.header("ratelimit-policy"), "\"user\";q=5;w=5000");
    // All or none.
    let refused = api.like_many("ada", &likes(3)).await;
    refused.assert_problem(429, "too-many-requests");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((900..=1_000).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit"), format!("\"user\";r=0;t={wait}"));
    assert_eq!(api.topic.end_offsets(), [3]);
    assert_eq!(results(&api.like_many("ada", &likes(2)).await).len(), 2);
    // More than the burst, while all of it is free; then the user waits for what exceeded it, too.
    assert_eq!(results(&api.like_many("eve", &likes(9)).await).len(), 9);
    let refused = api.like_many("eve", &likes(1)).await;
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((4_900..=5_000).contains(&wait), "{refused:?}");
}

#[tokio::test]
async fn trace_is_passed_on_with_each_event() {
    let api = TestApp::ready(1).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = json!({ "likes": [{ "productId": "p1", "liked": true }, { "productId": "p2", "liked": true }] });
    let answer = api.post(&[ADA, ("traceparent", trace)], &body.to_string()).await;
    for offset in 0..2 {
        let record = record_at(&api.topic.name, 0, offset);
        let headers: Vec<_> = record.headers().unwrap().iter().map(|header| (header.key, header.value)).collect();
        assert_eq!(headers, [("traceparent", Some(trace.as_bytes()))], "{answer:?}");
    }
}

#[tokio::test]
async fn backend_names_the_user_of_each_like() {
    let api = TestApp::ready_with(1, |config| {
        config.auth.batch_user_ids_from = vec!["127.0.0.0/8".parse().unwrap()];
        config.limits.rate_limit_user = 0.001;
        config.limits.rate_limit_user_burst = NonZeroU32::new(2).unwrap();
    })
    .await;
    let of = |user: &str, key: &str| json!({ "productId": "p1", "liked": true, "userId": user, "key": key });
    let likes =
        json!([of("u1", "k"), of("u2", "k"), of("u1", "l"), of("u1", "m"), { "productId": "p1", "liked": true }]);
    let body = json!({ "likes": likes }).to_string();
    let answer = api.post(&[], &body).await;
    let found = results(&answer);
    for (place, user) in ["u1", "u2", "u1", "u1"].iter().enumerate() {
        assert_eq!(event(&api, &found[place]).1["userId"], *user);
    }
    assert_ne!(found[0]["eventId"], found[1]["eventId"]);
    // Without a caller, a like without a user is no one's.
    assert_eq!(found[4]["problem"]["pointer"], "/likes/4/userId");
    // No user's rate counts them.
    assert_eq!(answer.header("ratelimit"), "");
    let answer = api.post(&[ADA], &body).await;
    assert_eq!(event(&api, &results(&answer)[4]).1["userId"], "ada");
    assert_eq!(answer.header("ratelimit"), "\"user\";r=1");
    // Other routes need a caller all the same.
    api.send(Method::PUT, "/v1/products/p1/like", &[]).await.assert_problem(401, "unauthenticated");
}

#[tokio::test]
async fn closed_gate_refuses_the_whole_request() {
    let api = Api::alone(|_| ()).await;
    let answer = api.like_many("ada", &json!([{ "productId": "p1", "liked": true }])).await;
    answer.assert_unavailable("writes-unavailable", "layout");
}

#[tokio::test]
async fn longest_likes_are_accepted() {
    let api = TestApp::ready_with(1, |config| config.limits.rate_limit_user = 0.0).await;
    let like = |n: usize| json!({ "productId": format!("{n:x>128}"), "liked": true, "key": "\"".repeat(255) });
    let likes: Vec<_> = (0..100).map(like).collect();
    let answer = api.like_many(&"u".repeat(255), &json!(likes)).await;
    assert!(results(&answer).iter().all(|result| result["receipt"].is_string()), "{answer:?}");
}

#[tokio::test]
async fn connection_stays_usable_after_a_body() {
    let api = TestApp::ready(1).await;
    let url = api.url.clone();
    let wire = move || {
        let mut wire = Wire::to(&url);
        let head = "POST /v1/likes HTTP/1.1\r\nHost: h\r\nContent-Type: application/json";
        let body = "{\"likes\":[{\"productId\":\"p1\",\"liked\":true}]}";
        let sized = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for (user, rest, status) in [
            ("X-User-Id: ada\r\n", &sized, 200),
            ("X-User-Id: ada\r\n", &chunked, 200),
            ("", &sized, 401),
            ("", &chunked, 401),
        ] {
            wire.send(format!("{head}\r\n{user}{rest}"));
            assert_eq!(wire.status(), status, "{user}{rest}");
        }
        // A client that waits for 100 before the body gets it.
        wire.send(format!(
            "{head}\r\nX-User-Id: ada\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        assert_eq!(wire.status(), 100);
        wire.send(body);
        assert_eq!(wire.status(), 200);
        // Refused without reading all of it, and closed, since the rest would be the next request.
        for user in ["X-User-Id: ada\r\n", ""] {
            let mut wire = Wire::to(&url);
            wire.send(format!("{head}\r\n{user}Expect: 100-continue\r\nContent-Length: 1048576\r\n\r\n"));
            let answer = wire.answer();
            assert_eq!(answer.header("connection"), "close", "{answer:?}");
            assert_eq!(answer.status, if user.is_empty() { 401 } else { 413 });
            wire.is_closed();
        }
    };
    tokio::task::spawn_blocking(wire).await.unwrap();
}

#[tokio::test]
async fn body_of_a_refused_request_is_no_request() {
    let api = Api::alone(|config| {
        config.limits.rate_limit_address = 0.001;
        config.limits.rate_limit_address_burst = NonZeroU32::MIN;
    })
    .await;
    api.get("/nowhere").await;
    let url = api.url.clone();
    let wire = move || {
        let hidden = "GET /hidden HTTP/1.1\r\nHost: h\r\nX-Request-Id: hidden\r\n\r\n";
        for length in [hidden.len(), 1024 * 1024] {
            let mut wire = Wire::to(&url);
            wire.send(format!("POST /v1/likes HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{hidden}"));
            assert_eq!(wire.status(), 429);
            // Refused before its body was read: the connection is closed, or takes the next request.
            wire.send("GET /nowhere HTTP/1.1\r\nHost: h\r\nX-Request-Id: next\r\n\r\n");
            wire.end();
            while let Some(answer) = wire.answer_if_any(false) {
                assert_eq!(answer.header("x-request-id"), "next", "{answer:?}");
            }
        }
    };
    tokio::task::spawn_blocking(wire).await.unwrap();
}
