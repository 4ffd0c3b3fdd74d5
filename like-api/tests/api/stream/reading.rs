//! The events of a stream: the present counts, then each change once.

use std::time::{Duration, Instant};

use futures::future::join_all;
use like_testkit::{TestSystem, until};
use reqwest::Method;
use serde_json::json;

use super::{Events, NEVER, SHORT, count, set_up, start};
use crate::common::Api;

/// The number of queries for this reason.
async fn queries(api: &Api, reason: &str) -> f64 {
    api.port.metric("likes_stream_queries_total", reason).await
}

#[tokio::test]
async fn stream_begins_with_present_counts() {
    let (database, api) = set_up(NEVER, |_| ()).await;
    count(&database, &["p1"], 7).await;
    count(&database, &["below"], -3).await;
    let url = format!("{}/v1/likes/stream?ids=never,p1,p1,below", api.url);
    let request = api.http.get(url).header("Accept-Encoding", "gzip, br").header("X-User-Id", "not a user's id");
    let mut events = Events::of(request.send().await.unwrap());
    for (name, value) in [
        ("content-type", Some("text/event-stream")),
        ("cache-control", Some("no-store")),
        ("x-accel-buffering", Some("no")),
        ("content-length", None),
        ("content-encoding", None),
    ] {
        assert_eq!(events.response.headers().get(name).map(|value| value.to_str().unwrap()), value, "{name}");
    }
    let get = api.get("/v1/likes?ids=never,p1,below").await.json;
    for likes in get.as_array().unwrap() {
        assert_eq!(events.next().await.as_ref(), Some(likes));
    }
    assert_eq!(get[1]["count"], 7);
}

#[tokio::test]
async fn retry_times_are_random() {
    let (_database, api) = set_up(NEVER, |_| ()).await;
    let mut retries = Vec::new();
    for _ in 0..10 {
        let mut events = Events::open(&api, "p1").await;
        events.next().await.unwrap();
        retries.push(events.retry.unwrap());
    }
    assert!(retries.iter().all(|ms| (2_000..6_000).contains(ms)), "{retries:?}");
    retries.dedup();
    assert!(retries.len() > 1);
}

#[tokio::test]
async fn changes_follow_and_nothing_else() {
    let (database, api) = set_up(SHORT, |_| ()).await;
    count(&database, &["p1", "p2"], 1).await;
    let mut events = Events::open(&api, "p1,p2,p3").await;
    let mut only_p2 = Events::open(&api, "p2").await;
    for expected in [("p1", 1), ("p2", 1), ("p3", 0)] {
        assert_eq!(events.count().await, (expected.0.to_owned(), expected.1));
    }
    assert_eq!(only_p2.count().await, ("p2".to_owned(), 1));
    for (product, number) in [("p1", 2), ("p3", 5), ("p1", 3), ("other", 9), ("p2", 4)] {
        count(&database, &[product], number).await;
        if product != "other" {
            assert_eq!(events.count().await, (product.to_owned(), number));
        }
    }
    assert_eq!(only_p2.count().await, ("p2".to_owned(), 4));
    let last = json!({"productId": "p2", "count": 5, "updatedAt": null});
    count(&database, &["p2"], 5).await;
    let event = events.next().await.unwrap();
    assert_eq!(event.as_object().unwrap().len(), last.as_object().unwrap().len());
    assert_eq!(event, api.get("/v1/products/p2/likes").await.json);
}

#[tokio::test]
async fn product_has_one_event_per_interval() {
    let interval = Duration::from_millis(200);
    let (database, api) = set_up(interval, |_| ()).await;
    let begin = Instant::now();
    let mut events = Events::open(&api, "p1").await;
    // Each new stream gets the change before it at once.
    for number in 1..=100 {
        count(&database, &["p1"], number).await;
        let first = Events::open(&api, "p1").await.count().await;
        assert_eq!(first, ("p1".to_owned(), number));
    }
    let sent = events.until("p1", 100).await;
    let polls = queries(&api, "interval").await;
    assert!((sent as f64) <= 1.0 + polls, "{sent} events of {polls} polls");
    let intervals = begin.elapsed().div_duration_f64(interval);
    assert!(polls <= intervals + 1.0, "{polls} polls within {intervals} intervals");
    assert!(queries(&api, "newcomers").await > 1.0);
}

#[tokio::test]
async fn first_counts_are_read_after_subscribing() {
    let (database, api) = set_up(NEVER, |_| ()).await;
    let mut first = Events::open(&api, "p1").await;
    assert_eq!(first.count().await.1, 0);
    for number in 1..=3 {
        count(&database, &["p1"], number).await;
        assert_eq!(Events::open(&api, "p1").await.count().await.1, number);
    }

    // A count that was read for a new stream reaches the others too, without a further change and
    // without a heartbeat.
    let (database, api) = set_up(Duration::from_secs(1), |config| config.streams.stream_heartbeat = NEVER).await;
    let mut first = Events::open(&api, "p1").await;
    assert_eq!(first.count().await.1, 0);
    count(&database, &["p1"], 1).await;
    assert_eq!(Events::open(&api, "p1").await.count().await.1, 1);
    assert_eq!(first.count().await.1, 1);
}

#[tokio::test]
async fn no_change_is_missed_or_reverted() {
    const LAST: i64 = 300;
    let (database, api) = set_up(SHORT, |_| ()).await;
    count(&database, &["p1"], 0).await;
    let changing = async {
        for number in 1..=LAST {
            count(&database, &["p1"], number).await;
        }
    };
    let reading = |place: u64| {
        let api = &api;
        async move {
            // Spread over the interval.
            tokio::time::sleep(Duration::from_millis(place * 7)).await;
            let mut events = Events::open(api, "p1").await;
            let mut before = -1;
            while before < LAST {
                let now = events.count().await.1;
                assert!(now > before, "{now} after {before}");
                before = now;
            }
        }
    };
    tokio::join!(changing, join_all((0..60).map(reading)));
}

#[tokio::test]
async fn streams_share_their_queries() {
    const PAUSE: Duration = Duration::from_millis(50);
    let (database, api) = set_up(PAUSE * 4, |_| ()).await;
    let begin = Instant::now();
    // Streams that open one after another share queries too.
    let one_after_another = async |_| {
        for _ in 0..5 {
            let one = api.http.get(format!("{}/v1/likes/stream?ids=p0", api.url)).send().await.unwrap();
            assert_eq!(Events::of(one).count().await.1, 0);
        }
    };
    join_all((0..8).map(one_after_another)).await;
    let (newcomers, elapsed) = (queries(&api, "newcomers").await, begin.elapsed());
    assert!(newcomers <= elapsed.div_duration_f64(PAUSE) + 1.0, "{newcomers} queries in {elapsed:?}");
    let ids: Vec<_> = (0..40).map(|number| format!("p{number}")).collect();
    let open = |place: usize| {
        let (api, ids) = (&api, ids[place % 20..place % 20 + 20].join(","));
        async move {
            let mut events = Events::open(api, &ids).await;
            for _ in 0..20 {
                events.count().await;
            }
            events
        }
    };
    let mut streams = join_all((0..200).map(open)).await;
    assert!(api.port.metric("likes_open_streams", "").await >= 200.0);
    let (at_interval, newcomers) = (queries(&api, "interval").await, queries(&api, "newcomers").await);
    let elapsed = begin.elapsed();
    assert!(newcomers <= elapsed.div_duration_f64(PAUSE) + 1.0, "{newcomers} queries in {elapsed:?}");
    assert!(at_interval <= elapsed.div_duration_f64(PAUSE * 4) + 1.0, "{at_interval} queries in {elapsed:?}");

    count(&database, &["p19"], 3).await;
    for events in &mut streams {
        assert_eq!(events.count().await, ("p19".to_owned(), 3));
    }
    assert_eq!(api.port.metric("likes_watched_products", "").await, 39.0);

    drop(streams);
    until("no subscription is left", async || api.port.metric("likes_watched_products", "").await == 0.0).await;
    assert_eq!(api.port.metric("likes_open_streams", "").await, 0.0);
    let before = queries(&api, "").await;
    // Wait as long as another service needs for three polls at the same interval.
    let other = start(&database.url, PAUSE * 4, |_| ()).await;
    let _stream = Events::open(&other, "p1").await;
    until("three intervals pass", async || queries(&other, "interval").await >= 3.0).await;
    assert_eq!(queries(&api, "").await, before);
}

#[tokio::test]
async fn silent_stream_sends_heartbeats() {
    let (database, api) = set_up(SHORT, |config| config.streams.stream_heartbeat = Duration::from_millis(100)).await;
    let mut events = Events::open(&api, "p1").await;
    events.count().await;
    events.until_comments(3).await;
    count(&database, &["p1"], 1).await;
    assert_eq!(events.count().await.1, 1);
}

#[tokio::test]
async fn head_returns_headers_only() {
    let (_database, api) = set_up(NEVER, |_| ()).await;
    let answer = api.send(Method::HEAD, "/v1/likes/stream?ids=p1", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "text/event-stream"));
    assert!(!answer.headers.contains_key("content-length"));
    assert_eq!(api.send(Method::HEAD, "/v1/likes/stream?ids=", &[]).await.status, 400);
    assert_eq!(queries(&api, "").await, 0.0);
}

#[tokio::test]
async fn stream_ids_follow_the_rules_of_get() {
    let (_database, api) = set_up(NEVER, |_| ()).await;
    let many = vec!["p"; 101].join(",");
    for query in ["", "?ids=", "?ids=a,,b", "?ids=a%20b", "?ids=a&ids=b", &format!("?ids={many}")] {
        let answer = api.get(&format!("/v1/likes/stream{query}")).await;
        answer.assert_problem(400, "invalid-request");
        assert_eq!(answer.json["errors"], api.get(&format!("/v1/likes{query}")).await.json["errors"], "{query}");
    }
    api.send(Method::POST, "/v1/likes/stream?ids=a", &[]).await.assert_problem(405, "method-not-allowed");
}

#[tokio::test]
async fn counted_like_appears_in_the_stream() {
    let system = TestSystem::set_up(2).await;
    let (_aggregator, api) = (system.aggregator(&[]).await, system.api(&[("STREAM_INTERVAL", "100ms")]).await);
    let url = format!("{}/v1/likes/stream?ids=p1,p2", api.url);
    let mut events = Events::of(reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap());
    assert_eq!((events.count().await.1, events.count().await.1), (0, 0));
    api.client().click("u1", "p2", true, "k1").await;
    assert_eq!(events.count().await, ("p2".to_owned(), 1));
    api.client().click("u2", "p2", true, "k2").await;
    assert_eq!(events.count().await, ("p2".to_owned(), 2));
    api.client().click("u1", "p2", false, "k3").await;
    assert_eq!(events.count().await, ("p2".to_owned(), 1));
}
