//! The most liked products: order, windows and limits, and what many readers cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use like_api::read::databases::Databases;
use like_api::read::error::ReadError;
use like_api::read::top::{Ranking, Top, Window};
use like_testkit::{TestDatabase, until};
use prometheus::Registry;
use reqwest::Method;
use serde_json::json;

use crate::common::{Answer, Api, TestApp, config};

fn items(answer: &Answer, number: &str) -> Vec<(String, i64)> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json["items"].as_array().unwrap().iter();
    items.map(|item| (item["productId"].as_str().unwrap().to_owned(), item[number].as_i64().unwrap())).collect()
}

fn named(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
    expected.iter().map(|(product, number)| ((*product).to_owned(), *number)).collect()
}

/// Likes of this hour and of the hours 1, 2, 24, 25, 168 and 169 before it, and of an unknown hour.
const HOURS: &str = "
    INSERT INTO product_like_hour
        SELECT date_trunc('hour', now()) - ago * interval '1 hour', product, likes
        FROM (VALUES (0, 'now', 3), (0, 'lost', -1), (1, 'last', 2), (1, 'lost', 1), (1, 'also-last', 2), (2, 'now', 10),
                     (24, 'day', 5), (25, 'day', 50), (168, 'week', 7), (169, 'week', 70)) v (ago, product, likes);
    INSERT INTO product_like_hour VALUES ('-infinity', 'unknown', 1000);
    INSERT INTO product_like_count SELECT product_id, sum(likes), 0, now() FROM product_like_hour GROUP BY product_id";

#[tokio::test]
async fn windows_rank_what_was_gained() {
    let api = TestApp::ready(1).await;
    // All windows are read within the hour of the rows.
    let answers = loop {
        let hour = "SELECT extract(epoch FROM date_trunc('hour', now()))::bigint";
        let before = api.database.number(hour).await;
        api.database.execute("TRUNCATE product_like_hour, product_like_count").await;
        api.database.execute(HOURS).await;
        let answers = join_all(
            ["1h", "24h", "7d", "all"].map(async |window| api.get(&format!("/v1/likes/top?window={window}")).await),
        )
        .await;
        if api.database.number(hour).await == before {
            break answers;
        }
    };
    let hour = [("now", 3), ("also-last", 2), ("last", 2)];
    let day = [("now", 13), ("day", 5), ("also-last", 2), ("last", 2)];
    let week = [("day", 55), ("now", 13), ("week", 7), ("also-last", 2), ("last", 2)];
    let all = [("unknown", 1000), ("week", 77), ("day", 55), ("now", 13), ("also-last", 2), ("last", 2)];
    for (answer, expected) in answers.iter().zip([&hour[..], &day, &week]) {
        assert_eq!(items(answer, "gained"), named(expected), "{answer:?}");
        let since = chrono::DateTime::parse_from_rfc3339(answer.json["since"].as_str().unwrap()).unwrap();
        assert_eq!(since.timestamp() % 3600, 0, "{answer:?}");
    }
    assert_eq!(items(&answers[3], "count"), named(&all));
    assert_eq!(answers[3].json["since"], json!(null));

    let two = api.get("/v1/likes/top?window=all&limit=2").await;
    let expected = json!({"window": "all", "items": [{"productId": "unknown", "count": 1000}, {"productId": "week", "count": 77}]});
    assert_eq!(two.json, expected);
    assert_eq!((two.header("cache-control"), two.header("vary")), ("public, max-age=5", ""));
    let again =
        api.send(Method::GET, "/v1/likes/top?window=all&limit=2", &[("If-None-Match", two.header("etag"))]).await;
    assert_eq!((again.status.as_u16(), again.length), (304, 0));
    assert_eq!(api.get("/v1/likes/top").await.json["window"], "24h");
}

#[tokio::test]
async fn at_most_100_products_are_listed() {
    let api = TestApp::ready(1).await;
    let fill = "INSERT INTO product_like_count SELECT 'p' || n, n, 0, now() FROM generate_series(-5, 150) n";
    api.database.execute(fill).await;
    for (limit, expected) in [("", 10), ("&limit=100", 100), ("&limit=1", 1)] {
        let answer = api.get(&format!("/v1/likes/top?window=all{limit}")).await;
        let expected: Vec<_> = (0..expected).map(|n| (format!("p{}", 150 - n), 150 - n)).collect();
        assert_eq!(items(&answer, "count"), expected);
    }
    for (query, part) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=1", "limit"),
        ("window=2h", "window"),
        ("window=", "window"),
        ("window=1h&window=1h", "window"),
    ] {
        let answer = api.get(&format!("/v1/likes/top?{query}")).await;
        answer.assert_problem(400, "invalid-request");
        assert_eq!(answer.json["errors"][0]["parameter"], part, "{query}");
    }
}

/// Rankings without HTTP, of a database whose counts are locked until `holder` ends.
struct Locked {
    database: TestDatabase,
    top: Arc<Top>,
    registry: Registry,
}

impl Locked {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        database.execute("INSERT INTO product_like_count VALUES ('p1', 7, 0, now())").await;
        let registry = Registry::new();
        let top = Arc::new(Top::new(&Databases::open(&config("t", &database.url)), &registry));
        Self { database, top, registry }
    }

    fn queries(&self) -> f64 {
        let found =
            self.registry.gather().into_iter().find(|family| family.name() == "likes_top_queries_total").unwrap();
        found.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()
    }

    fn read(&self) -> tokio::task::JoinHandle<Result<Arc<Ranking>, ReadError>> {
        let top = Arc::clone(&self.top);
        tokio::spawn(async move { top.read(Window::All).await })
    }
}

#[tokio::test]
async fn many_readers_share_one_query() {
    let locked = Locked::new().await;
    let mut holder = locked.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
    let reads: Vec<_> = (0..200).map(|_| locked.read()).collect();
    until("the query waits for the lock", async || {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        locked.database.number(waiting).await == 1
    })
    .await;
    holder.rollback().await.unwrap();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap().products, [("p1".to_owned(), 7)]);
    }
    // Within its interval the ranking stays, whatever happens to the table.
    locked.database.execute("ALTER TABLE product_like_count RENAME TO gone").await;
    for read in (0..200).map(|_| locked.read()).collect::<Vec<_>>() {
        assert_eq!(read.await.unwrap().unwrap().products, [("p1".to_owned(), 7)]);
    }
    assert!((locked.queries() - 1.0).abs() < 0.1, "{} queries", locked.queries());
}

#[tokio::test]
async fn failed_query_is_not_repeated_at_once() {
    let locked = Locked::new().await;
    locked.database.execute("ALTER TABLE product_like_count RENAME TO gone").await;
    for _ in 0..50 {
        assert!(matches!(locked.read().await.unwrap(), Err(ReadError::Unavailable(_))));
    }
    assert!((locked.queries() - 1.0).abs() < 0.1, "{} queries", locked.queries());
}

#[tokio::test]
async fn old_ranking_is_served_while_queries_fail() {
    let locked = Locked::new().await;
    locked.database.execute("INSERT INTO product_like_hour VALUES (now(), 'p1', 7)").await;
    let read = async || locked.top.read(Window::Hour).await.map(|ranking| ranking.products.clone());
    assert_eq!(read().await.unwrap(), [("p1".to_owned(), 7)]);
    locked.database.execute("ALTER TABLE product_like_hour RENAME TO gone").await;
    until("another query has begun", async || {
        assert_eq!(read().await.unwrap(), [("p1".to_owned(), 7)]);
        locked.queries() > 1.5
    })
    .await;
    for _ in 0..50 {
        assert_eq!(read().await.unwrap(), [("p1".to_owned(), 7)]);
    }
    assert!(locked.queries() < 2.5, "{} queries", locked.queries());
}

#[tokio::test]
async fn slow_query_delays_no_other_reader() {
    let api = TestApp::ready(1).await;
    let mut holder = api.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
    let began = Instant::now();
    let slow = api.get("/v1/likes/top?window=all");
    let others = async {
        for window in ["1h", "24h", "7d"] {
            assert_eq!(items(&api.get(&format!("/v1/likes/top?window={window}")).await, "gained"), []);
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    };
    let (slow, ()) = tokio::join!(slow, others);
    slow.assert_unavailable("reads-unavailable", "");
}

#[tokio::test]
async fn rankings_need_the_database() {
    let api = Api::alone(|_| ()).await;
    api.get("/v1/likes/top").await.assert_unavailable("reads-unavailable", "");
}
