//! The demo page at `/`, which only `DEMO=true` turns on.

use like_testkit::TestSystem;
use reqwest::Method;
use serde_json::Value;

use crate::common::Api;
use crate::process::{refused, settings};

const FILES: [&str; 3] = ["demo/demo.css", "demo/demo.js", "demo/charts.js"];

async fn text(api: &Api, path: &str) -> String {
    api.http.get(format!("{}/{path}", api.url)).send().await.unwrap().text().await.unwrap()
}

#[test]
fn demo_is_refused_with_tokens() {
    for (changes, said) in [
        (
            &[
                ("DEMO", "true"),
                ("AUTH_MODE", "jwt"),
                ("JWT_SECRET", "a-secret-of-32-bytes-or-more-bytes"),
                ("JWT_ISSUER", "i"),
                ("JWT_AUDIENCE", "a"),
            ][..],
            &["DEMO=true", "AUTH_MODE=jwt", "AUTH_MODE=trusted-header"][..],
        ),
        (&[("DEMO", "perhaps")], &["DEMO", "'perhaps'"]),
        (&[("DEMO_AGGREGATOR_URL", "http://127.0.0.1:1")], &["DEMO_AGGREGATOR_URL", "set DEMO=true"]),
        (
            &[("DEMO", "true"), ("DEMO_AGGREGATOR_URL", "127.0.0.1:1")],
            &["DEMO_AGGREGATOR_URL", "http://127.0.0.1:8082"],
        ),
        (&[("DEMO", "true"), ("DEMO_AGGREGATOR_URL", "http://h/metrics")], &["DEMO_AGGREGATOR_URL", "without a path"]),
    ] {
        refused(&settings(changes), said);
    }
}

#[tokio::test]
async fn demo_is_off_unless_asked_for() {
    let api = Api::alone(|config| config.site.docs = false).await;
    for path in ["", "demo/numbers"].into_iter().chain(FILES) {
        api.get(&format!("/{path}")).await.assert_problem(404, "not-found");
    }
}

#[tokio::test]
async fn demo_page_needs_no_other_host() {
    let api = Api::alone(|config| config.site.demo = true).await;
    let page = api.get("/").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    for loose in ["http", "unsafe", "*"] {
        assert!(!policy.contains(loose), "{policy}");
    }
    let html = text(&api, "").await;
    for file in FILES.iter().take(2).chain(&["like-button.js"]) {
        assert!(html.contains(&format!("\"{file}\"")), "{file}");
        assert_eq!(api.get(&format!("/{file}")).await.status, 200, "{file}");
    }
    for file in [&[""][..], &FILES].concat() {
        let text = text(&api, file).await.replace("http://www.w3.org/", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{file} names another host");
    }
}

#[tokio::test]
async fn numbers_without_an_aggregator_say_so() {
    let api = Api::alone(|config| {
        config.site.demo = true;
        config.site.demo_aggregator_url = Some("http://127.0.0.1:1/metrics".parse().unwrap());
    })
    .await;
    let numbers = api.get("/demo/numbers").await;
    assert_eq!(numbers.header("cache-control"), "no-store");
    assert_eq!(numbers.json, serde_json::json!({ "userHeader": "X-User-Id", "namesUsers": false, "acknowledged": 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_those_of_both_services() {
    let system = TestSystem::set_up(4).await;
    let aggregator = system.aggregator(&[]).await;
    let demo = [("DEMO", "true"), ("DEMO_AGGREGATOR_URL", &aggregator.admin), ("BATCH_USER_IDS_FROM", "127.0.0.1")];
    let api = system.api(&demo).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let like =
        |n: usize| serde_json::json!({ "productId": format!("p{}", n % 3), "liked": true, "userId": format!("u{n}") });
    let body = serde_json::json!({ "likes": (0..100).map(like).collect::<Vec<_>>() });
    let sent = http.request(Method::POST, format!("{}/v1/likes", api.url)).json(&body).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let numbers =
        async || -> Value { http.get(format!("{}/demo/numbers", api.url)).send().await.unwrap().json().await.unwrap() };
    like_testkit::until("all are counted", async || numbers().await["aggregator"]["counted"] == 100.0).await;
    let numbers = numbers().await;
    assert_eq!((&numbers["namesUsers"], &numbers["acknowledged"]), (&Value::Bool(true), &Value::from(100)));
    let of = |name: &str| numbers["aggregator"][name].as_f64().unwrap();
    assert!((1.0..=4.0).contains(&of("transactions")), "{numbers}");
    assert!(of("statements") >= 5.0 * of("transactions") && of("statements") < 100.0, "{numbers}");
    assert!(of("age") > 0.0, "{numbers}");
}
