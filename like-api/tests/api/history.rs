//! Likes over time: points without gaps, by hour and by day, and the bounds of what may be asked.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{Answer, Api, TestApp};

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn history(api: &Api, query: &str) -> Answer {
    api.get(&format!("/v1/products/p1/likes/history?{query}")).await
}

fn gained(answer: &Answer) -> Vec<i64> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json["points"].as_array().unwrap().iter().map(|point| point["gained"].as_i64().unwrap()).collect()
}

/// Hours of two products.
async fn set_up() -> TestApp {
    let api = TestApp::ready(1).await;
    let rows = "INSERT INTO product_like_hour VALUES
        ('-infinity', 'p1', 1000),
        ('2020-02-28T00:00Z', 'p1', 5), ('2020-02-29T23:00Z', 'p1', 2), ('2020-02-29T22:00Z', 'p1', -4),
        ('2020-02-29T00:00Z', 'p1', 10), ('2020-03-02T00:00Z', 'p1', 1), ('2020-02-29T00:00Z', 'p2', 99)";
    api.database.execute(rows).await;
    api
}

#[tokio::test]
async fn days_have_no_gaps() {
    let api = set_up().await;
    let answer = history(&api, "from=2020-02-28T10:00:00Z&to=2020-03-02T00:00:01Z&step=day").await;
    let point = |at: &str, gained: i64| json!({"at": format!("{at}T00:00:00Z"), "gained": gained});
    let points = [point("2020-02-28", 5), point("2020-02-29", 8), point("2020-03-01", 0), point("2020-03-02", 1)];
    assert_eq!(answer.json, json!({"productId": "p1", "step": "day", "points": points}));
    assert_eq!((answer.header("cache-control"), answer.header("vary")), ("public, max-age=5", ""));

    // The end is exclusive, and any offset from UTC names the same moment.
    let answer = history(&api, "from=2020-02-28T01:00:00%2B01:00&to=2020-03-01T19:00:00-05:00&step=day").await;
    assert_eq!(gained(&answer), [5, 8, 0]);
    let never = api.get("/v1/products/never/likes/history?from=2020-02-28T10:00:00Z&to=2020-02-28T10:00:01Z&step=day");
    assert_eq!(gained(&never.await), [0]);
    assert_eq!(gained(&history(&api, "from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z&step=day").await).len(), 366);
    // Among others of the year 0 and of the last one.
    for year in ["0000", "9999"] {
        let answer = history(&api, &format!("from={year}-01-01T00:00:00Z&to={year}-12-31T23:59:59Z&step=day")).await;
        assert_eq!(gained(&answer).iter().sum::<i64>(), 0);
    }
}

#[tokio::test]
async fn hours_have_no_gaps() {
    let api = set_up().await;
    let now = Utc::now();
    let start = now - TimeDelta::days(30);
    let rows = "INSERT INTO product_like_hour
                SELECT date_trunc('hour', $1 + n * interval '1 hour'), 'p1', n FROM generate_series(0, 720) n WHERE n <> 5";
    sqlx::query(rows).bind(start).execute(&api.database.pool).await.unwrap();
    let all = history(&api, &format!("from={}&to={}", shown(start), shown(now))).await;
    let expected: Vec<i64> = (0..=720).map(|n| if n == 5 { 0 } else { n }).collect();
    assert_eq!(gained(&all), expected);
    assert_eq!(all.json["step"], "hour");
    let times: Vec<_> = all.json["points"].as_array().unwrap().iter().map(|point| point["at"].clone()).collect();
    let hour = |n: i64| Value::from(format!("{}:00:00Z", (start + TimeDelta::hours(n)).format("%Y-%m-%dT%H")));
    assert_eq!(times, (0..=720).map(hour).collect::<Vec<_>>());

    let tag = all.header("etag");
    let path = format!("/v1/products/p1/likes/history?from={}&to={}", shown(start), shown(now));
    let again = api.send(Method::GET, &path, &[("If-None-Match", tag)]).await;
    assert_eq!((again.status.as_u16(), again.length), (304, 0));
}

#[tokio::test]
async fn bad_range_is_refused() {
    let api = TestApp::ready(1).await;
    let ago = |days: i64| shown(Utc::now() - TimeDelta::days(days));
    let old = format!("from={}&to={}", ago(36), ago(34));
    let long = format!("from={}&to={}", ago(33), ago(1));
    for (query, named, why) in [
        ("", &["from", "to"][..], "is missing"),
        ("from=2020-01-01T00:00:00Z", &["to"], "is missing"),
        ("from=yesterday&to=2020-01-01&step=week", &["from", "to", "step"], "must be"),
        ("from=2020-01-01T00:00:00+01:00&to=2020-01-02T00:00:00Z&step=day", &["from"], "%2B"),
        ("from=2020-01-02T00:00:00Z&to=2020-01-02T00:00:00Z&step=day", &["to"], "later than from"),
        ("from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:01Z&step=day", &["to"], "at most 366 days"),
        (&long, &["to"], "at most 31 days"),
        (&old, &["from"], "step=day"),
        ("from=2020-01-02T00:00:00Z&from=2020-01-02T00:00:00Z", &["from"], "more than once"),
        ("from=%FF", &["from", "to"], "RFC 3339"),
    ] {
        let answer = history(&api, query).await;
        answer.assert_problem(400, "invalid-request");
        let errors = answer.json["errors"].as_array().unwrap();
        let parts: Vec<_> = errors.iter().map(|error| error["parameter"].as_str().unwrap()).collect();
        assert_eq!(parts, named, "{query}");
        assert!(errors.iter().all(|error| error["detail"].as_str().unwrap().contains(why)), "{query}: {answer:?}");
    }
    api.get("/v1/products/a%20b/likes/history").await.assert_problem(400, "invalid-request");
}

#[tokio::test]
async fn rows_are_found_by_their_key() {
    let api = set_up().await;
    let fill = "INSERT INTO product_like_hour
                SELECT '2019-01-01T00:00Z'::timestamptz + n % 5000 * interval '1 hour', 'q' || n / 5000, 1
                FROM generate_series(0, 199999) n; ANALYZE product_like_hour";
    api.database.execute(fill).await;
    let reads = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'product_like_hour'";
    let before = api.database.number(reads).await;
    for _ in 0..8 {
        // The fifth execution of a prepared statement may choose another plan.
        let answer = history(&api, "from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z&step=day").await;
        assert_eq!(gained(&answer).iter().sum::<i64>(), 14);
    }
    let plan = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'product_like_hour'";
    like_testkit::until("the statistics have the reads", async || api.database.number(plan).await > 0).await;
    assert_eq!(api.database.number(reads).await, before, "rows of sequential scans");
}

#[tokio::test]
async fn history_needs_the_database() {
    let api = Api::alone(|_| ()).await;
    let answer = history(&api, "from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z&step=day").await;
    answer.assert_unavailable("reads-unavailable", "");
}
