//! Each rule of what a request may look like: the status, the type of the problem, and the part
//! it names.

use like_testkit::{TestDatabase, TestTopic};
use reqwest::Method;
use serde_json::json;

use crate::common::Api;

/// Method, path, headers; then status, type, and what `errors` names.
type Case<'a> = (Method, &'a str, &'a [(&'a str, &'a str)], u16, &'a str, &'a [(&'a str, &'a str)]);

const LIKE: &str = "/v1/products/p1/like";
const USER: (&str, &str) = ("X-User-Id", "u1");

#[tokio::test]
async fn a_request_that_breaks_a_rule_is_told_which() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    let api = Api::ready(&topic, &database).await;

    let product = &[("parameter", "productId")][..];
    let key = &[("header", "Idempotency-Key")][..];
    let user = &[("header", "X-User-Id")][..];
    let ids = &[("parameter", "ids")][..];
    let receipt = &[("parameter", "receipt")][..];
    let long_id = format!("/v1/products/{}/like", "x".repeat(129));
    let long_user = "u".repeat(256);
    let long_key = "k".repeat(256);
    let id_100 = "x".repeat(100);
    let too_many = format!("/v1/likes?ids={}", vec!["p"; 101].join(","));
    let too_long = format!("/v1/likes?ids={}", vec![id_100.as_str(); 60].join(","));
    let (put, delete, get, post) = (Method::PUT, Method::DELETE, Method::GET, Method::POST);

    let cases: &[Case] = &[
        // Product ids.
        (put.clone(), "/v1/products/a%2Fb/like", &[USER], 400, "invalid-request", product),
        (delete.clone(), "/v1/products/a%20b/like", &[USER], 400, "invalid-request", product),
        (put.clone(), "/v1/products/%C3%BC/like", &[USER], 400, "invalid-request", product),
        (put.clone(), "/v1/products/%FF/like", &[USER], 400, "invalid-request", product),
        (put.clone(), "/v1/products/%zz/like", &[USER], 400, "invalid-request", product),
        (put.clone(), "/v1/products//like", &[USER], 400, "invalid-request", product),
        (put.clone(), "/v1/products/a%00/like", &[USER], 400, "invalid-request", product),
        (put.clone(), &long_id, &[USER], 400, "invalid-request", product),
        (get.clone(), "/v1/products/a%20b/likes", &[], 400, "invalid-request", product),
        (get.clone(), "/v1/products/%FF/likes", &[], 400, "invalid-request", product),
        // Who is calling.
        (put.clone(), LIKE, &[], 401, "unauthenticated", user),
        (delete.clone(), LIKE, &[], 401, "unauthenticated", user),
        (put.clone(), LIKE, &[("X-User-Id", "")], 401, "unauthenticated", user),
        (put.clone(), LIKE, &[("X-User-Id", "a b")], 401, "unauthenticated", user),
        (put.clone(), LIKE, &[("X-User-Id", "ü")], 401, "unauthenticated", user),
        (put.clone(), LIKE, &[("X-User-Id", &long_user)], 401, "unauthenticated", user),
        (put.clone(), LIKE, &[USER, USER], 401, "unauthenticated", user),
        (get.clone(), "/v1/products/p1/likes", &[("X-User-Id", "a b")], 401, "unauthenticated", user),
        (get.clone(), "/v1/products/p1/likes", &[USER, USER], 401, "unauthenticated", user),
        (get.clone(), "/v1/likes?ids=p1", &[("X-User-Id", "")], 401, "unauthenticated", user),
        // Who it is comes before what is asked.
        (put.clone(), "/v1/products/a%20b/like", &[], 401, "unauthenticated", user),
        // Keys.
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "")], 400, "invalid-request", key),
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "\"\"")], 400, "invalid-request", key),
        (delete.clone(), LIKE, &[USER, ("Idempotency-Key", &long_key)], 400, "invalid-request", key),
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "a b")], 400, "invalid-request", key),
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "\"a")], 400, "invalid-request", key),
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "é")], 400, "invalid-request", key),
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "a, b")], 400, "invalid-request", key),
        (put.clone(), LIKE, &[USER, ("Idempotency-Key", "a"), ("Idempotency-Key", "a")], 400, "invalid-request", key),
        // All that is wrong is told at once.
        (
            put.clone(),
            "/v1/products/a%20b/like",
            &[USER, ("Idempotency-Key", "")],
            400,
            "invalid-request",
            &[product[0], key[0]],
        ),
        // Lists of ids.
        (get.clone(), "/v1/likes", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?id=p1", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=p1&ids=p2", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=p1,", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=p1,,p2", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=p1+p2", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=p1,%FF", &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=p1,%zz", &[], 400, "invalid-request", ids),
        (get.clone(), &too_many, &[], 400, "invalid-request", ids),
        (get.clone(), &too_long, &[], 400, "invalid-request", ids),
        (get.clone(), "/v1/likes?ids=.,p1,..", &[], 400, "invalid-request", &[ids[0], ids[0]]),
        // Receipts.
        (get.clone(), "/v1/receipts/1-2", &[], 400, "invalid-request", receipt),
        (get.clone(), "/v1/receipts/01-2-3", &[], 400, "invalid-request", receipt),
        (get.clone(), "/v1/receipts/1-2-9223372036854775808", &[], 400, "invalid-request", receipt),
        (get.clone(), "/v1/receipts/%FF", &[], 400, "invalid-request", receipt),
        // Routes and methods.
        (get.clone(), "/", &[], 404, "not-found", &[]),
        (get.clone(), "/v1/products/p1/likes/", &[], 404, "not-found", &[]),
        (get.clone(), "/readyz", &[], 404, "not-found", &[]),
        (get.clone(), "/metrics", &[], 404, "not-found", &[]),
        (get.clone(), LIKE, &[USER], 405, "method-not-allowed", &[]),
        (post.clone(), LIKE, &[USER], 405, "method-not-allowed", &[]),
        (post, "/v1/likes?ids=p1", &[], 405, "method-not-allowed", &[]),
        (Method::from_bytes(b"BREW").unwrap(), LIKE, &[], 405, "method-not-allowed", &[]),
    ];
    for (method, path, headers, status, name, named) in cases {
        let answer = api.send(method.clone(), path, headers).await;
        let case = format!("{method} {path} {headers:?}");
        assert_eq!(answer.status.as_u16(), *status, "{case}: {answer:?}");
        answer.assert_problem(*status, name);
        let errors = answer.json.get("errors").cloned().unwrap_or(json!([]));
        let errors = errors.as_array().unwrap();
        assert_eq!(errors.len(), named.len(), "{case}: {answer:?}");
        for (error, (at, part)) in errors.iter().zip(*named) {
            assert_eq!(error[at], *part, "{case}: {answer:?}");
            assert!(error["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{case}: {answer:?}");
        }
        assert_eq!(answer.headers.contains_key("www-authenticate"), *status == 401, "{case}");
        assert_eq!(answer.headers.contains_key("allow"), *status == 405, "{case}");
    }

    let answer = api.get(LIKE).await;
    let mut allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "PUT"]);
    let answer = api.get("/v1/likes?ids=p1,a%20b,p2,..").await;
    let detail = |at: usize| answer.json["errors"][at]["detail"].as_str().unwrap();
    assert!(detail(0).starts_with("id 2 of 4 must be"), "{answer:?}");
    assert!(detail(1).starts_with("id 4 of 4 must be"), "{answer:?}");

    // And at each limit, just within.
    let within = [
        format!("/v1/likes?ids={}", vec!["p"; 100].join(",")),
        format!("/v1/likes?ids={}", [vec![id_100.as_str(); 59].join(","), "x".repeat(40)].join(",")),
        format!("/v1/likes?other=1&%69ds={}&more", "x".repeat(128)),
    ];
    for path in within {
        assert_eq!(api.get(&path).await.status, 200, "{path}");
    }
    let longest = [("X-User-Id", &*"u".repeat(255)), ("Idempotency-Key", &*"k".repeat(255))];
    assert_eq!(api.send(put, &format!("/v1/products/{}/like", "x".repeat(128)), &longest).await.status, 202);
    // Nothing of what was refused has reached the log.
    assert_eq!(topic.end_offsets(), [1]);
}

#[tokio::test]
async fn a_request_id_is_taken_or_made_and_comes_back_on_every_answer() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    let api = Api::start(crate::common::config(&topic.name, &database.url)).await;
    for path in ["/v1/likes?ids=p1", "/v1/likes", "/nowhere"] {
        let taken = api.send(Method::GET, path, &[("X-Request-Id", "r-1")]).await;
        assert_eq!(taken.header("x-request-id"), "r-1");
        let made = api.send(Method::GET, path, &[("X-Request-Id", "r 1")]).await;
        assert_eq!(made.header("x-request-id").len(), 36);
    }
}
