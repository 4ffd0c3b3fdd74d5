//! The rules for requests: the status, the type of the problem, and the part that it names.

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::common::{Api, TestApp};

/// Method, path, headers; then status, type, and what `errors` names.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str, &'a [(&'a str, &'a str)]);

const LIKE: &str = "/v1/products/p1/like";
const USER: (&str, &str) = ("X-User-Id", "u1");
const INVALID: &str = "invalid-request";

/// Sends each case; none may reach the log.
async fn refuses(cases: &[Case<'_>]) {
    let api = TestApp::ready(1).await;
    for (method, path, headers, status, name, named) in cases {
        let answer = api.send(Method::from_bytes(method.as_bytes()).unwrap(), path, headers).await;
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
    assert_eq!(api.topic.end_offsets(), [0]);
}

#[tokio::test]
async fn bad_product_id_is_refused() {
    let product = &[("parameter", "productId")][..];
    let too_long = format!("/v1/products/{}/like", "x".repeat(129));
    refuses(&[
        ("PUT", "/v1/products/a%2Fb/like", &[USER], 400, INVALID, product),
        ("DELETE", "/v1/products/a%20b/like", &[USER], 400, INVALID, product),
        ("PUT", "/v1/products/%C3%BC/like", &[USER], 400, INVALID, product),
        ("PUT", "/v1/products/%FF/like", &[USER], 400, INVALID, product),
        ("PUT", "/v1/products/%zz/like", &[USER], 400, INVALID, product),
        ("PUT", "/v1/products/a%00/like", &[USER], 400, INVALID, product),
        ("PUT", "/v1/products//like", &[USER], 400, INVALID, product),
        ("PUT", &too_long, &[USER], 400, INVALID, product),
        ("GET", "/v1/products/a%20b/likes", &[], 400, INVALID, product),
        ("GET", "/v1/products/%FF/likes", &[], 400, INVALID, product),
    ])
    .await;
}

#[tokio::test]
async fn bad_credentials_are_refused() {
    let user = &[("header", "X-User-Id")][..];
    let too_long = "u".repeat(256);
    refuses(&[
        ("PUT", LIKE, &[], 401, "unauthenticated", user),
        ("DELETE", LIKE, &[], 401, "unauthenticated", user),
        ("PUT", LIKE, &[("X-User-Id", "")], 401, "unauthenticated", user),
        ("PUT", LIKE, &[("X-User-Id", "a b")], 401, "unauthenticated", user),
        ("PUT", LIKE, &[("X-User-Id", "victim,me")], 401, "unauthenticated", user),
        ("PUT", LIKE, &[("X-User-Id", "ü")], 401, "unauthenticated", user),
        ("PUT", LIKE, &[("X-User-Id", &too_long)], 401, "unauthenticated", user),
        ("PUT", LIKE, &[USER, USER], 401, "unauthenticated", user),
        ("GET", "/v1/products/p1/likes", &[("X-User-Id", "a b")], 401, "unauthenticated", user),
        ("GET", "/v1/products/p1/likes", &[USER, USER], 401, "unauthenticated", user),
        ("GET", "/v1/likes?ids=p1", &[("X-User-Id", "")], 401, "unauthenticated", user),
        // Credentials are checked before parameters.
        ("PUT", "/v1/products/a%20b/like", &[], 401, "unauthenticated", user),
    ])
    .await;
}

#[tokio::test]
async fn bad_idempotency_key_is_refused() {
    let key = &[("header", "Idempotency-Key")][..];
    let both = &[("parameter", "productId"), key[0]][..];
    let too_long = "k".repeat(256);
    let too_long_quoted = format!("\"{too_long}\"");
    refuses(&[
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "\"\"")], 400, INVALID, key),
        ("DELETE", LIKE, &[USER, ("Idempotency-Key", &too_long)], 400, INVALID, key),
        ("DELETE", LIKE, &[USER, ("Idempotency-Key", &too_long_quoted)], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "a b")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "\"a")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "\"")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", r#""a\""#)], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", r#""a\b""#)], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", r#""a"b"#)], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", r#""a";x=1"#)], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "a\"b")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "é")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "a,b")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "a, b")], 400, INVALID, key),
        ("PUT", LIKE, &[USER, ("Idempotency-Key", "a"), ("Idempotency-Key", "a")], 400, INVALID, key),
        // One answer names all faults.
        ("PUT", "/v1/products/a%20b/like", &[USER, ("Idempotency-Key", "")], 400, INVALID, both),
    ])
    .await;
}

#[tokio::test]
async fn bad_list_of_ids_is_refused() {
    let ids = &[("parameter", "ids")][..];
    let too_many = format!("/v1/likes?ids={}", vec!["p"; 101].join(","));
    let too_long = format!("/v1/likes?ids={},{}", vec!["x".repeat(100); 59].join(","), "x".repeat(42));
    refuses(&[
        ("GET", "/v1/likes", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?id=p1", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=p1&ids=p2", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=&ids=", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=p1,", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=p1,,p2", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=p1+p2", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=p1,%FF", &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=p1,%zz", &[], 400, INVALID, ids),
        ("GET", &too_many, &[], 400, INVALID, ids),
        ("GET", &too_long, &[], 400, INVALID, ids),
        ("GET", "/v1/likes?ids=.,p1,..", &[], 400, INVALID, &[ids[0], ids[0]]),
    ])
    .await;
}

#[tokio::test]
async fn unknown_route_and_method_are_refused() {
    let receipt = &[("parameter", "receipt")][..];
    refuses(&[
        ("GET", "/v1/receipts/1-2", &[], 400, INVALID, receipt),
        ("GET", "/v1/receipts/01-2-3", &[], 400, INVALID, receipt),
        ("GET", "/v1/receipts/1-2-9223372036854775808", &[], 400, INVALID, receipt),
        ("GET", "/v1/receipts/%FF", &[], 400, INVALID, receipt),
        ("GET", "/v1/products/p1/likes/", &[], 404, "not-found", &[]),
        // Only the admin port has these.
        ("GET", "/readyz", &[], 404, "not-found", &[]),
        ("GET", "/metrics", &[], 404, "not-found", &[]),
        ("GET", LIKE, &[USER], 405, "method-not-allowed", &[]),
        ("POST", LIKE, &[USER], 405, "method-not-allowed", &[]),
        ("DELETE", "/v1/likes?ids=p1", &[], 405, "method-not-allowed", &[]),
        ("BREW", LIKE, &[], 405, "method-not-allowed", &[]),
    ])
    .await;
}

#[tokio::test]
async fn refusal_names_the_id_and_the_methods() {
    let api = TestApp::ready(1).await;
    let answer = api.get(LIKE).await;
    let mut allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "PUT"]);
    let answer = api.get("/v1/likes?ids=p1,a%20b,p2,..").await;
    let detail = |at: usize| answer.json["errors"][at]["detail"].as_str().unwrap();
    assert!(detail(0).starts_with("id 2 of 4 must be"), "{answer:?}");
    assert!(detail(1).starts_with("id 4 of 4 must be"), "{answer:?}");
}

#[tokio::test]
async fn longest_inputs_are_accepted() {
    let api = TestApp::ready(1).await;
    let of_6000 = [vec!["x".repeat(100); 59].join(","), "x".repeat(41)].join(",");
    assert_eq!(of_6000.len(), 6_000);
    for path in [
        format!("/v1/likes?ids={}", vec!["p"; 100].join(",")),
        format!("/v1/likes?ids={of_6000}"),
        format!("/v1/likes?other=1&%69ds={}&more", "x".repeat(128)),
    ] {
        assert_eq!(api.get(&path).await.status, 200, "{path}");
    }
    let longest = [("X-User-Id", &*"u".repeat(255)), ("Idempotency-Key", &*"k".repeat(255))];
    let path = format!("/v1/products/{}/like", "x".repeat(128));
    assert_eq!(api.send(Method::PUT, &path, &longest).await.status, 202);
}

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let api = Api::alone(|_| ()).await;
    let longest = "x".repeat(128);
    for path in ["/v1/likes?ids=p1", "/v1/likes", "/nowhere"] {
        for fit in ["r-1", "~!{}", &longest] {
            let taken = api.send(Method::GET, path, &[("X-Request-Id", fit)]).await;
            assert_eq!(taken.header("x-request-id"), fit);
        }
        for unfit in [&[][..], &[""], &["r 1"], &["r\t1"], &["r-1", "r-1"], &[&format!("{longest}x")]] {
            let sent: Vec<_> = unfit.iter().map(|id| ("X-Request-Id", *id)).collect();
            let made = api.send(Method::GET, path, &sent).await;
            assert_eq!(Uuid::parse_str(made.header("x-request-id")).unwrap().get_version_num(), 7, "{unfit:?}");
        }
    }
}

#[tokio::test]
async fn too_large_head_is_refused() {
    let api = Api::alone(|_| ()).await;
    let (fits, too_large) = ("x".repeat(15_000), "x".repeat(17_000));
    assert_eq!(api.send(Method::GET, "/nowhere", &[("X-Any", &fits)]).await.status, 404);
    assert_eq!(api.send(Method::GET, "/nowhere", &[("X-Any", &too_large)]).await.status, 431);
    assert_eq!(api.get("/nowhere").await.status, 404);
}

#[tokio::test]
async fn user_header_counts_from_gateways_only() {
    for (network, status) in [("10.0.0.0/8", 401), ("127.0.0.0/8", 503)] {
        let api = Api::alone(|config| config.auth.auth_header_from = vec![network.parse().unwrap()]).await;
        // With the router, and without.
        for path in [LIKE, "/v1/products/p%31/like"] {
            assert_eq!(api.send(Method::PUT, path, &[USER]).await.status, status, "{network} {path}");
        }
        assert_eq!(api.get("/nowhere").await.status, 404);
    }
}
