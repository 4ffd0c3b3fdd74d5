//! CORS: the answers to browsers that run another site's page.

use std::num::{NonZeroU32, NonZeroUsize};

use clap::Parser;
use like_api::config::Config;
use like_testkit::until;
use reqwest::Method;

use crate::common::{Answer, Api, NO_DATABASE, TestApp};
use crate::wire::Wire;

const SHOP: &str = "https://shop.example";
const EVIL: &str = "https://evil.example";
const LIKE: &str = "/v1/products/p1/like";

/// Allows these origins.
pub fn allow(config: &mut Config, origins: &str) {
    let args = ["x", "--auth-mode=trusted-header", "--kafka-bootstrap-servers=k", "--database-url", NO_DATABASE];
    config.browser = Config::parse_from(args.into_iter().chain([
        "--cors-allowed-headers=X-More",
        "--cors-allowed-origins",
        origins,
    ]))
    .browser;
}

async fn start(origins: &str) -> Api {
    Api::alone(|config| allow(config, origins)).await
}

impl Api {
    async fn preflight(&self, origin: &str, method: &str) -> Answer {
        let asked = [("Origin", origin), ("Access-Control-Request-Method", method)];
        self.send(Method::OPTIONS, LIKE, &asked).await
    }
}

#[tokio::test]
async fn preflight_of_listed_origin_is_permitted() {
    let api = start(&format!("{SHOP},http://localhost:3000")).await;
    let answer = api.preflight(SHOP, "PUT").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), SHOP);
    let list = |name| answer.header(name).split(", ").collect::<Vec<_>>();
    for method in ["GET", "POST", "PUT", "DELETE"] {
        assert!(list("access-control-allow-methods").contains(&method), "{answer:?}");
    }
    let usual = "authorization idempotency-key prefer if-none-match x-request-id traceparent content-type baggage \
                 sentry-trace x-requested-with cache-control x-more";
    for header in usual.split(' ') {
        assert!(list("access-control-allow-headers").contains(&header), "{header}: {answer:?}");
    }
    assert!(!list("access-control-allow-headers").contains(&"x-user-id"), "only a gateway sets it");
    assert_eq!(answer.header("access-control-max-age"), "7200");
    assert_eq!(answer.header("vary"), "origin");
    assert_eq!(answer.header("x-request-id").len(), 36);
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    let other = "http://localhost:3000";
    assert_eq!(api.preflight(other, "PUT").await.header("access-control-allow-origin"), other);
}

#[tokio::test]
async fn preflight_of_other_origin_is_not_permitted() {
    let api = start(SHOP).await;
    for origin in
        [EVIL, "null", "https://shop.example.evil.example", "http://shop.example", "https://SHOP.example", "*"]
    {
        let answer = api.preflight(origin, "PUT").await;
        assert_eq!((answer.status.as_u16(), answer.header("vary")), (204, "origin"), "{origin}");
        let permits = |name: &reqwest::header::HeaderName| name.as_str().starts_with("access-control-");
        assert!(!answer.headers.keys().any(permits), "{origin}: {answer:?}");
    }
}

#[tokio::test]
async fn star_permits_anonymous_reads_only() {
    let api = start("*").await;
    let answer = api.preflight(EVIL, "PUT").await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (204, "*"));
    assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD");
    for header in ["authorization", "idempotency-key", "x-user-id"] {
        assert!(!answer.header("access-control-allow-headers").contains(header), "{answer:?}");
    }
    assert!(!answer.headers.contains_key("access-control-allow-credentials"));
    assert_eq!(api.get("/nowhere").await.header("access-control-allow-origin"), "*");

    let mixed = start(&format!("*,{SHOP}")).await;
    let answer = mixed.preflight(SHOP, "PUT").await;
    assert_eq!(answer.header("access-control-allow-origin"), SHOP);
    assert!(answer.header("access-control-allow-methods").contains("PUT"), "{answer:?}");
    let answer = mixed.preflight(EVIL, "GET").await;
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), ("*", "origin"));
    assert!(!answer.header("access-control-allow-methods").contains("PUT"), "{answer:?}");
}

#[tokio::test]
async fn page_may_read_every_answer_and_refusal() {
    let api = Api::alone(|config| {
        allow(config, SHOP);
        config.limits.rate_limit_user = 0.001;
        config.limits.rate_limit_user_burst = NonZeroU32::MIN;
    })
    .await;
    for (method, path, user, status) in [
        (Method::PUT, LIKE, "", 401),
        (Method::GET, "/v1/products/p1/likes", "a b", 401),
        (Method::GET, "/nowhere", "", 404),
        (Method::GET, LIKE, "", 405),
        (Method::GET, "/v1/likes", "", 400),
        (Method::PUT, LIKE, "u1", 503),
        (Method::PUT, LIKE, "u1", 429),
        (Method::GET, "/v1/products/p1/likes", "u1", 429),
        // Not a preflight: no method is requested.
        (Method::OPTIONS, LIKE, "", 405),
    ] {
        for origin in [SHOP, EVIL, ""] {
            if status == 503 && origin != SHOP {
                continue;
            }
            let sent = [("X-User-Id", user), ("Origin", origin)];
            let sent: Vec<_> = sent.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            let answer = api.send(method.clone(), path, &sent).await;
            let what = format!("{method} {path} of '{user}' from '{origin}': {answer:?}");
            assert_eq!(answer.status, status, "{what}");
            assert_eq!(answer.header("vary"), "origin", "{what}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{what}");
            let allowed = if origin == SHOP { SHOP } else { "" };
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{what}");
            for exposed in
                "location link etag retry-after ratelimit ratelimit-policy x-request-id preference-applied".split(' ')
            {
                let exposes = answer.header("access-control-expose-headers").split(", ").any(|name| name == exposed);
                assert_eq!(exposes, origin == SHOP, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn vary_names_all_headers_in_one_line() {
    let api = TestApp::ready_with(1, |config| allow(config, SHOP)).await;
    for path in ["/v1/products/p1/likes", "/v1/likes?ids=p1"] {
        for origin in [SHOP, EVIL] {
            let answer = api.send(Method::GET, path, &[("Origin", origin)]).await;
            let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
            assert_eq!(vary, ["x-user-id, origin"], "{path} {origin}");
            assert_eq!(answer.status, 200, "{path} {origin}");
        }
    }
    let liked = api.send(Method::PUT, LIKE, &[("X-User-Id", "u1"), ("Origin", SHOP)]).await;
    assert_eq!((liked.status.as_u16(), liked.header("access-control-allow-origin")), (202, SHOP));
}

#[tokio::test]
async fn page_may_read_the_refusal_of_a_full_listener() {
    let api = Api::alone(|config| {
        allow(config, SHOP);
        config.limits.max_connections = NonZeroUsize::new(1);
        config.limits.address_share = 100;
    })
    .await;
    let mut open = Wire::to(&api.url);
    open.send("GET /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{");
    until("it is open", async || api.port.metric("likes_open_connections", "").await == 1.0).await;
    for (origin, allowed) in [(SHOP, SHOP), (EVIL, "")] {
        let answer = api.send(Method::GET, "/nowhere", &[("Origin", origin)]).await;
        answer.assert_problem(503, "overloaded");
        assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (allowed, "origin"));
    }
}

#[tokio::test]
async fn preflights_are_not_limited() {
    let api = Api::alone(|config| {
        allow(config, SHOP);
        config.limits.rate_limit_address = 0.001;
        config.limits.rate_limit_address_burst = NonZeroU32::MIN;
    })
    .await;
    for _ in 0..5 {
        assert_eq!(api.preflight(SHOP, "PUT").await.status, 204);
    }
    // The one request that the rate permits is unused.
    assert_eq!(api.get("/nowhere").await.status, 404);
    let refused = api.send(Method::GET, "/nowhere", &[("Origin", SHOP)]).await;
    refused.assert_problem(429, "too-many-requests");
    assert_eq!(refused.header("access-control-allow-origin"), SHOP);
    assert_eq!(api.preflight(SHOP, "PUT").await.status, 204);
}

#[tokio::test]
async fn without_origins_cors_is_off() {
    let api = Api::alone(|_| ()).await;
    let answers = [api.preflight(SHOP, "PUT").await, api.send(Method::GET, "/nowhere", &[("Origin", SHOP)]).await];
    for answer in answers {
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}
