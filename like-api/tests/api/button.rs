//! `/like-button.js`: the web component, for pages of all origins.

use reqwest::{Client, Method, StatusCode, redirect};

use crate::common::{Answer, Api};

const BUTTON: &str = include_str!("../../../web/dist/like-button.js");
const SHORT: &str = "/like-button.js";

fn without_redirects() -> Client {
    Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap()
}

/// The path that names the version.
fn versioned(answer: &Answer) -> String {
    let location = answer.header("content-location");
    assert!(location.starts_with("like-button-"), "{answer:?}");
    format!("/{location}")
}

#[tokio::test]
async fn script_is_what_was_built() {
    let api = Api::alone(|config| config.site.docs = false).await;
    let short = api.get(SHORT).await;
    let long = versioned(&short);
    for (path, caching) in [(SHORT, "public, max-age=300"), (&long, "public, max-age=31536000, immutable")] {
        let answer = api.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, caching), "{path}");
        assert_eq!(answer.header("content-type"), "text/javascript; charset=utf-8");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("etag"), short.header("etag"));
        let text = api.http.get(format!("{}{path}", api.url)).send().await.unwrap().text().await.unwrap();
        assert!(text == BUTTON, "{path} is not web/dist/like-button.js");

        let gzip = api.send(Method::GET, path, &[("Accept-Encoding", "gzip")]).await;
        assert!(gzip.header("content-encoding") == "gzip" && gzip.length < 6_000, "{gzip:?}");
        for fresh in [answer, gzip] {
            let tags = [("If-None-Match", fresh.header("etag")), ("Accept-Encoding", fresh.header("content-encoding"))];
            let same = api.send(Method::GET, path, &tags).await;
            assert_eq!((same.status.as_u16(), same.length), (304, 0), "{fresh:?}");
            assert_eq!(same.header("cache-control"), caching);
        }
    }
}

#[tokio::test]
async fn pages_of_all_origins_may_load_it() {
    for origins in ["", "https://shop.example", "*"] {
        let api = Api::alone(|config| {
            if !origins.is_empty() {
                crate::browser::allow(config, origins);
            }
        })
        .await;
        let old = "/like-button-0123456789abcdef.js";
        for path in [SHORT, &versioned(&api.get(SHORT).await), old] {
            for origin in ["https://shop.example", "https://other.example"] {
                let url = format!("{}{path}", api.url);
                let answer = without_redirects().get(url).header("Origin", origin).send().await.unwrap();
                let allowed: Vec<_> = answer.headers().get_all("access-control-allow-origin").iter().collect();
                assert_eq!(allowed, ["*"], "{origins} {path} {origin}");
                assert!(!answer.headers().contains_key("access-control-allow-credentials"));
            }
        }
    }
}

#[tokio::test]
async fn version_of_another_release_leads_to_the_current_one() {
    let api = Api::alone(|_| ()).await;
    let get = async |path: &str| without_redirects().get(format!("{}{path}", api.url)).send().await.unwrap();
    let old = get("/like-button-0123456789abcdef.js").await;
    assert_eq!(
        (old.status(), &old.headers()["location"]),
        (StatusCode::TEMPORARY_REDIRECT, &"like-button.js".parse().unwrap())
    );
    for path in
        ["/like-button-.js", "/like-button-0123456789abcdef", "/like-button-0123456789abcdeg.js", "/like-button-1/a.js"]
    {
        api.get(path).await.assert_problem(404, "not-found");
    }
}
