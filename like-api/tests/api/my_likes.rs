//! `GET /v1/me/likes`: the caller's likes, from the rows that like-aggregator writes.

use like_testkit::TestDatabase;
use reqwest::Method;

use crate::common::{Answer, Api, NO_DATABASE, TestApp};

/// As `setup --user-likes on` makes it.
pub const INDEX: &str = "CREATE INDEX product_like_user_id ON product_like (user_id)";

/// Rows of `product_like`: `n` products of a user, liked at seconds of which each has three.
async fn liked(database: &TestDatabase, user: &str, products: std::ops::Range<u32>) {
    let rows = "INSERT INTO product_like
                SELECT $1, '2026-11-22T10:00:00Z'::timestamptz + interval '1 second' * $2, true, $3, $4";
    for n in products {
        let product = format!("p{n}");
        let row = sqlx::query(rows).bind(like_events::pair_key(&product, user)).bind(f64::from(n / 3));
        row.bind(&product).bind(user).execute(&database.pool).await.unwrap();
    }
}

async fn ready() -> TestApp {
    let api = TestApp::ready_with(1, |config| config.limits.rate_limit_user = 0.0).await;
    api.database.execute(INDEX).await;
    api
}

impl Api {
    async fn my_likes(&self, query: &str) -> Answer {
        self.send(Method::GET, &format!("/v1/me/likes{query}"), &[("X-User-Id", "ada")]).await
    }
}

fn products(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json["items"].as_array().unwrap();
    items.iter().map(|item| item["productId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn likes_are_listed_newest_first() {
    let api = ready().await;
    assert_eq!(products(&api.my_likes("").await), Vec::<String>::new());
    liked(&api.database, "ada", 0..250).await;
    liked(&api.database, "eve", 0..10).await;
    api.database.execute("UPDATE product_like SET liked = false WHERE product_id = 'p7' AND user_id = 'ada'").await;
    let (mut listed, mut pages) = (Vec::new(), 0);
    let mut answer = api.my_likes("?limit=100").await;
    loop {
        pages += 1;
        listed.extend(products(&answer));
        assert_eq!((answer.header("cache-control"), answer.header("vary")), ("private, no-cache", "x-user-id"));
        let Some(next) = answer.json["next"].as_str() else { break };
        let url =
            answer.header("link").strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
        assert_eq!(url, format!("/v1/me/likes?limit=100&cursor={next}"));
        answer = api.send(Method::GET, url, &[("X-User-Id", "ada")]).await;
    }
    assert_eq!((pages, answer.header("link")), (3, ""));
    let times: Vec<u32> = listed.iter().map(|product| product[1..].parse::<u32>().unwrap() / 3).collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{listed:?}");
    let mut expected: Vec<_> = (0..250).filter(|n| *n != 7).map(|n| format!("p{n}")).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    // 50 without a limit; the time in UTC.
    let first = api.my_likes("").await;
    assert_eq!((products(&first).len(), &first.json["items"][0]["likedAt"]), (50, &"2026-11-22T10:01:23.000Z".into()));
    let headers = [("X-User-Id", "ada"), ("If-None-Match", first.header("etag"))];
    assert_eq!(api.send(Method::GET, "/v1/me/likes", &headers).await.status, 304);
}

#[tokio::test]
async fn likes_that_come_in_shift_no_page() {
    let api = ready().await;
    liked(&api.database, "ada", 0..60).await;
    // A page ends among three of one time.
    let (mut listed, mut after) = (Vec::new(), String::new());
    for new in 100.. {
        let answer = api.my_likes(&format!("?limit=7{after}")).await;
        listed.extend(products(&answer));
        liked(&api.database, "ada", new..new + 1).await;
        let Some(next) = answer.json["next"].as_str() else { break };
        after = format!("&cursor={next}");
    }
    let mut expected: Vec<_> = (0..60).map(|n| format!("p{n}")).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn without_index_it_is_not_implemented() {
    let api = TestApp::ready(1).await;
    liked(&api.database, "ada", 0..3).await;
    api.my_likes("").await.assert_problem(501, "user-likes-off");
    // Followed at once, by each replica.
    api.database.execute(INDEX).await;
    assert_eq!(products(&api.my_likes("").await).len(), 3);
    let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'product_like_user_id'::regclass";
    api.database.execute(invalid).await;
    api.my_likes("").await.assert_problem(501, "user-likes-off");
}

#[tokio::test]
async fn bad_page_is_refused() {
    let api = ready().await;
    let cursor = "0".repeat(48);
    for (query, parameters) in [
        ("?limit=0", &["limit"][..]),
        ("?limit=101", &["limit"]),
        ("?limit=", &["limit"]),
        ("?limit=%2B5", &["limit"]),
        ("?limit=05", &["limit"]),
        ("?limit=5&limit=5", &["limit"]),
        ("?cursor=", &["cursor"]),
        ("?cursor=nonsense", &["cursor"]),
        (&format!("?cursor={}", "f".repeat(48)), &["cursor"]),
        (&format!("?cursor={cursor}&cursor={cursor}"), &["cursor"]),
        ("?limit=x&cursor=x", &["limit", "cursor"]),
    ] {
        let answer = api.my_likes(query).await;
        answer.assert_problem(400, "invalid-request");
        let named: Vec<_> = answer.json["errors"].as_array().unwrap().iter().map(|error| &error["parameter"]).collect();
        assert_eq!(named, parameters, "{query}: {answer:?}");
    }
    // The largest time that a cursor can have.
    let last = format!("?cursor={:016x}{}", 0x6fff_ffff_ffff_ffff_i64, "f".repeat(32));
    for fine in [&last, "?limit=100", "?limit=1&other=x"] {
        assert_eq!(products(&api.my_likes(fine).await), Vec::<String>::new(), "{fine}");
    }
    api.get("/v1/me/likes").await.assert_problem(401, "unauthenticated");
    let none = Api::start(crate::common::config("t", NO_DATABASE)).await;
    none.my_likes("").await.assert_unavailable("reads-unavailable", "database");
}
