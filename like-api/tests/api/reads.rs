//! Counts, and what the caller likes.

use reqwest::Method;
use serde_json::json;

use crate::common::{Api, TestApp, config, laid_out};

/// A database with three products; `u1` likes `p1` and has unliked `p2`.
async fn set_up() -> TestApp {
    let (topic, database) = laid_out(1).await;
    for (product, count) in [("p1", 7_i64), ("p2", 0), ("below", -3)] {
        let sql = "INSERT INTO product_like_count VALUES ($1, $2, 0, '2026-11-22T11:00:00.123456+01:00')";
        sqlx::query(sql).bind(product).bind(count).execute(&database.pool).await.unwrap();
    }
    for (product, liked) in [("p1", true), ("p2", false)] {
        let key = like_events::pair_key(product, "u1");
        let sql = "INSERT INTO product_like VALUES ($1, now(), $2, $3, 'u1')";
        sqlx::query(sql).bind(key).bind(liked).bind(product).execute(&database.pool).await.unwrap();
    }
    TestApp::on(topic, database, |_| ()).await
}

#[tokio::test]
async fn counts_are_at_least_zero() {
    let api = set_up().await;
    for (product, count, updated_at) in [
        ("p1", 7, json!("2026-11-22T10:00:00.123Z")),
        ("p2", 0, json!("2026-11-22T10:00:00.123Z")),
        ("below", 0, json!("2026-11-22T10:00:00.123Z")),
        ("never", 0, json!(null)),
    ] {
        let answer = api.get(&format!("/v1/products/{product}/likes")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json, json!({"productId": product, "count": count, "updatedAt": updated_at}));
    }
}

#[tokio::test]
async fn counts_keep_the_requested_order() {
    let api = set_up().await;
    let answer = api.get("/v1/likes?ids=never,p2,p1,p2").await;
    let ids: Vec<_> = answer.json.as_array().unwrap().iter().map(|likes| likes["productId"].clone()).collect();
    assert_eq!(ids, ["never", "p2", "p1", "p2"]);
    assert_eq!(answer.json[2]["count"], 7);
    assert_eq!(answer.json[0], json!({"productId": "never", "count": 0, "updatedAt": null}));
}

#[tokio::test]
async fn known_callers_answers_are_private() {
    let api = set_up().await;
    for (user, liked) in [("u1", [true, false, false]), ("u2", [false, false, false])] {
        let answer = api.send(Method::GET, "/v1/likes?ids=p1,p2,never", &[("X-User-Id", user)]).await;
        let told: Vec<_> = answer.json.as_array().unwrap().iter().map(|likes| likes["liked"].clone()).collect();
        assert_eq!(told, liked);
        assert_eq!(answer.header("cache-control"), "private, no-cache");
        assert_eq!(answer.header("vary"), "x-user-id");
        let answer = api.send(Method::GET, "/v1/products/p1/likes", &[("X-User-Id", user)]).await;
        assert_eq!(answer.json["liked"], liked[0]);
        assert_eq!(answer.header("cache-control"), "private, no-cache");
    }
    let anonymous = api.get("/v1/likes?ids=p1").await;
    assert_eq!(anonymous.json[0].get("liked"), None);
    assert_eq!((anonymous.header("vary"), anonymous.header("cache-control")), ("x-user-id", "private, max-age=1"));
}

#[tokio::test]
async fn matching_etag_gets_304() {
    let api = set_up().await;
    for (path, user) in [
        ("/v1/products/p1/likes", &[][..]),
        ("/v1/likes?ids=p1,p2", &[]),
        ("/v1/products/p1/likes", &[("X-User-Id", "u1")]),
        ("/v1/likes?ids=p1,p2", &[("X-User-Id", "u1")]),
    ] {
        let full = api.send(Method::GET, path, user).await;
        let tag = full.header("etag").to_owned();
        let (weak, first) = (format!("\"a,b\", W/\"\" ,,\tW/{tag}"), format!("{tag},\"other\""));
        for named in [&[tag.as_str()][..], &[&weak], &[&first], &["*"], &["\"other\"", &tag], &["\"other\"", "*"]] {
            let lines: Vec<_> = named.iter().map(|line| ("If-None-Match", *line)).collect();
            let answer = api.send(Method::GET, path, &[user, &lines].concat()).await;
            assert_eq!((answer.status.as_u16(), answer.length), (304, 0), "{named:?}");
            for same in ["etag", "cache-control", "vary"] {
                assert_eq!(answer.header(same), full.header(same), "{path}");
            }
            assert!(!answer.headers.contains_key("content-type"));
        }
        let bare = tag.trim_matches('"');
        let malformed = [&format!("{bare}\""), &format!("\"{bare}"), &format!("w/{tag}"), &format!("\"a{tag}")];
        let others = ["", "\"other\"", "\"*\"", "*, \"a\"", bare, &format!("x, {tag}")];
        for named in malformed.into_iter().map(String::as_str).chain(others) {
            let answer = api.send(Method::GET, path, &[user, &[("If-None-Match", named)]].concat()).await;
            assert_eq!((answer.status.as_u16(), answer.json), (200, full.json.clone()), "{named}");
        }

        let head = api.send(Method::HEAD, path, user).await;
        assert_eq!((head.status.as_u16(), head.length), (200, 0));
        for same in ["etag", "cache-control", "vary", "content-type", "content-length"] {
            assert_eq!(head.header(same), full.header(same), "{path}");
        }
        let head = api.send(Method::HEAD, path, &[user, &[("If-None-Match", &tag)]].concat()).await;
        assert_eq!((head.status.as_u16(), head.header("etag")), (304, &*tag));
    }
    // Another count is another answer.
    let asked = ["/v1/products/p1/likes", "/v1/likes?ids=p1"];
    let read =
        async |path, named: &str| api.send(Method::GET, path, &[("X-User-Id", "u1"), ("If-None-Match", named)]).await;
    let before = [read(asked[0], "").await, read(asked[1], "").await];
    sqlx::query("UPDATE product_like_count SET like_count = 8").execute(&api.database.pool).await.unwrap();
    for (path, before) in asked.into_iter().zip(before) {
        let after = read(path, before.header("etag")).await;
        assert_eq!(after.status, 200);
        assert_ne!(after.header("etag"), before.header("etag"));
    }
}

#[tokio::test]
async fn etags_identify_answers_on_all_replicas() {
    let api = set_up().await;
    let replica = Api::start(config(&api.topic.name, &api.database.url)).await;
    replica.wait_until_ready().await;
    let mut seen = std::collections::HashSet::new();
    for (path, user) in [
        ("/v1/likes?ids=p1,p2", &[][..]),
        ("/v1/likes?ids=p2,p1", &[]),
        ("/v1/likes?ids=p1,p2", &[("X-User-Id", "u1")]),
        ("/v1/likes?ids=p1,p2", &[("X-User-Id", "u2")]),
    ] {
        let tag = api.send(Method::GET, path, user).await.header("etag").to_owned();
        assert_eq!(replica.send(Method::GET, path, user).await.header("etag"), tag);
        assert!(seen.insert(tag), "{path} {user:?}");
    }
}

#[tokio::test]
async fn refusal_has_no_etag() {
    let api = set_up().await;
    let answer = api.send(Method::GET, "/v1/likes?ids=a%20b", &[("If-None-Match", "*")]).await;
    answer.assert_problem(400, "invalid-request");
    assert!(!answer.headers.contains_key("etag"));
}

#[tokio::test]
async fn altered_column_fails_no_read() {
    let api = set_up().await;
    let products = async || {
        let paths: Vec<_> = (0..20).map(|n| format!("/v1/likes?ids=p1,n{n}")).collect();
        for answer in futures::future::join_all(paths.iter().map(|path| api.get(path))).await {
            assert_eq!(answer.status, 200, "{:?}", answer.json);
        }
    };
    products().await;
    api.database.execute("ALTER TABLE product_like_count ALTER COLUMN updated_at TYPE timestamptz(3)").await;
    api.database.execute("ALTER TABLE topic_layout ALTER COLUMN topic TYPE varchar(250)").await;
    products().await;
    // The check of the topic has its plan too: it notices that the topic is closed.
    api.database.execute("UPDATE topic_layout SET end_offsets = ARRAY[0]").await;
    let closed = async || api.waiting_for("topic_layout").await.is_some_and(|why| why.contains("is closed"));
    like_testkit::until("it notices that the topic is closed", closed).await;
}

#[tokio::test]
async fn refused_connection_is_an_outage() {
    let api = set_up().await;
    api.database.allow_connections(false).await;
    // The first ones use connections that were ended.
    for n in 0..10 {
        api.get(&format!("/v1/likes?ids=p1,n{n}")).await.assert_unavailable("reads-unavailable", "database");
    }
    api.database.allow_connections(true).await;
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);
}
