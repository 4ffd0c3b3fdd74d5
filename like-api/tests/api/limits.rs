//! Limits: rates of users and addresses, and load shedding.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use like_testkit::eventually;
use reqwest::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::{Answer, Api, TestApp};

/// No route has this path: only limits can refuse it with another status.
const NOWHERE: &str = "/nowhere";

impl Api {
    /// Sends a request for nothing with this `X-Forwarded-For`.
    async fn nothing(&self, forwarded_for: &str) -> Answer {
        self.send(Method::GET, NOWHERE, &[("X-Forwarded-For", forwarded_for)]).await
    }
}

#[tokio::test]
async fn user_over_the_rate_gets_a_true_wait() {
    let api = Api::alone(|config| {
        config.limits.rate_limit_user = 0.5;
        config.limits.rate_limit_user_burst = NonZeroU32::new(3).unwrap();
    })
    .await;
    let ask = async |user| api.send(Method::PUT, "/v1/products/a%20b/like", &[("X-User-Id", user)]).await;
    let mut taken = 0;
    let refused = eventually("too many", async || {
        let answer = ask("u1").await;
        taken += u32::from(answer.status == 400);
        (answer.status != 400).then_some(answer)
    })
    .await;
    assert!(taken >= 3, "{taken}");
    refused.assert_problem(429, "too-many-requests");
    assert_eq!(refused.json["detail"], "this user may send 0.5 a second, 3 at once");
    assert!(api.port.metric("likes_rate_limited_total", "limit=\"user\"").await >= 1.0);
    // Other users are unaffected, and anonymous callers have no user's rate.
    assert_eq!(ask("u2").await.status, 400);
    assert_eq!(api.get(NOWHERE).await.status, 404);

    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(ask("u1").await.status, 400);
}

#[tokio::test]
async fn all_routes_share_the_users_rate() {
    let api = Api::alone(|config| {
        config.limits.rate_limit_user = 0.001;
        config.limits.rate_limit_user_burst = NonZeroU32::new(4).unwrap();
    })
    .await;
    let user = [("X-User-Id", "u1")];
    // Two are answered without the router, the others with it; all count.
    for (method, path, status, left) in [
        (Method::PUT, "/v1/products/p1/like", 503, 3),
        (Method::DELETE, "/v1/products/p1/like", 503, 2),
        (Method::PUT, "/v1/products/a%20b/like", 400, 1),
        (Method::GET, "/v1/likes", 400, 0),
        (Method::PUT, "/v1/products/p1/like", 429, 0),
        (Method::GET, "/v1/likes", 429, 0),
        (Method::GET, "/v1/products/p1/likes", 429, 0),
        (Method::GET, "/v1/me/likes", 429, 0),
    ] {
        let answer = api.send(method.clone(), path, &user).await;
        assert_eq!(answer.status, status, "{method} {path}");
        // Every answer tells what is left, and then how long to wait.
        assert_eq!(answer.header("ratelimit-policy"), "\"user\";q=4;w=4000", "{method} {path}");
        let limit = answer.header("ratelimit");
        assert!(limit.starts_with(&format!("\"user\";r={left}")), "{method} {path}: {limit}");
        assert_eq!(limit.contains(";t="), left == 0, "{method} {path}: {limit}");
    }
    assert_eq!(api.get("/v1/likes").await.header("ratelimit"), "", "no rate of an anonymous caller");
}

#[tokio::test]
async fn spoofed_header_does_not_change_the_rate() {
    let api = Api::alone(|config| {
        config.limits.rate_limit_address = 0.001;
        config.limits.rate_limit_address_burst = NonZeroU32::new(2).unwrap();
        // Not this client's network.
        config.limits.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    for (spoofed, status) in [("198.51.100.1", 404), ("10.0.0.1", 404), ("198.51.100.3", 429), ("127.0.0.1", 429)] {
        assert_eq!(api.nothing(spoofed).await.status, status, "{spoofed}");
    }
    let refused = api.send(Method::PUT, "/v1/products/p1/like", &[("X-User-Id", "u1")]).await;
    refused.assert_problem(429, "too-many-requests");
    assert_eq!(refused.json["detail"], "this address may send 0.001 a second, 2 at once");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=1_000).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit-policy"), "\"address\";q=2;w=2000");
    assert_eq!(refused.header("ratelimit"), format!("\"address\";r=0;t={wait}"));
    assert_eq!(api.port.metric("likes_rate_limited_total", "limit=\"address\"").await, 3.0);
}

#[tokio::test]
async fn clients_behind_a_proxy_have_own_rates() {
    let api = Api::alone(|config| {
        config.limits.rate_limit_address = 0.001;
        config.limits.rate_limit_address_burst = NonZeroU32::new(2).unwrap();
        config.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    for (forwarded_for, status) in [
        ("198.51.100.1", 404),
        ("198.51.100.2", 404),
        ("198.51.100.1", 404),
        ("198.51.100.1", 429),
        // Left of what the proxy has written, so it may be forged.
        ("203.0.113.7, 198.51.100.1", 429),
        ("203.0.113.7, 198.51.100.2", 404),
        ("::ffff:198.51.100.1", 429),
        // One /64.
        ("2001:db8::1", 404),
        ("2001:db8::2", 404),
        ("2001:db8:0:0:ffff::", 429),
        ("2001:db8:0:1::3", 404),
    ] {
        assert_eq!(api.nothing(forwarded_for).await.status, status, "{forwarded_for}");
    }
}

#[tokio::test]
async fn overload_refuses_likes_early() {
    // Below any acknowledgement's time: the limit shrinks to its minimum.
    let api = TestApp::ready_with(1, |config| config.limits.shed_above = Duration::from_nanos(1)).await;
    // A like in progress needs two open files here.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let (mut acknowledged, mut refused) = (0, 0);
    eventually("a like is refused", async || {
        let users: Vec<_> = (0..600).map(|n| format!("u{acknowledged}-{n}")).collect();
        let likes = users.iter().map(|user| async {
            let began = Instant::now();
            (api.like("p1", user).await, began.elapsed())
        });
        for (answer, took) in futures::future::join_all(likes).await {
            if answer.status == 202 {
                acknowledged += 1;
            } else {
                // Delayed, for clients that retry at once.
                assert!(took >= Duration::from_millis(500), "{took:?}");
                answer.assert_problem(503, "overloaded");
                assert_eq!(answer.header("retry-after"), "1");
                refused += 1;
            }
        }
        (refused > 0).then_some(())
    })
    .await;
    assert_eq!(api.port.metric("likes_shed_total", "").await, f64::from(refused));
    assert_eq!(api.port.metric("likes_in_progress_limit", "").await, 256.0);
    // Refused likes were not written, and one at a time is always accepted.
    assert_eq!(api.topic.end_offsets(), [i64::from(acknowledged)]);
    assert_eq!(api.like("p1", "u1").await.status, 202);
}
