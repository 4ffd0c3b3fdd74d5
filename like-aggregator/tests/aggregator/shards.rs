//! Several databases share a topic, each with the products of some partitions: docs/SCALING.md.

use std::collections::{BTreeMap, BTreeSet};

use like_events::{Receipt, partition};
use like_testkit::{Crowd, Differences, Record, TestDatabase, TestService, TestSystem, TestTopic, event, until};
use reqwest::Response;
use serde_json::Value;

const PARTITIONS: i32 = 12;

/// A system for the topic with a database of its own, which holds these partitions.
async fn holding(topic: &str, partitions: &str) -> TestSystem {
    let system = TestSystem::on(topic.to_owned(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", &PARTITIONS.to_string(), "--hold-partitions", partitions]).await;
    system
}

/// A database with the first half of the partitions, and one with the others.
async fn halves(topic: &str) -> [TestSystem; 2] {
    [holding(topic, "0-5").await, holding(topic, "6-11").await]
}

/// A like-api that reads from both.
fn start_api([west, east]: &[TestSystem; 2]) -> TestService {
    west.start_api(&[("OTHER_DATABASE_URLS", &east.database.url)])
}

/// The record of what each of the halves holds.
fn split(record: Record) -> [Record; 2] {
    let users = record.users.clone();
    let (west, of_east) = record.without(|receipt| receipt.partition % PARTITIONS >= 6);
    let mut east = Record { users, ..Record::default() };
    of_east.into_iter().for_each(|click| east.note(click));
    [west, east]
}

async fn get(api: &TestService, user: &str, path: &str) -> (u16, Value) {
    let answer = api.http.get(format!("{}{path}", api.url)).header("X-User-Id", user).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Compares what each user sees through the API, in which the databases are one.
async fn is_seen(api: &TestService, record: &Record) {
    let mut counts = BTreeMap::<&str, i64>::new();
    record.liked.iter().for_each(|(product, _)| *counts.entry(product).or_default() += 1);
    let products: Vec<String> = counts.keys().take(100).map(|product| (*product).to_owned()).collect();
    for user in &record.users {
        let expected: Vec<_> = products
            .iter()
            .map(|product| (counts[product.as_str()], record.liked.contains(&(product.clone(), user.clone()))))
            .collect();
        assert_eq!(api.client().likes(user, &products).await, expected, "as {user} sees it");
        let mine: BTreeSet<_> =
            record.liked.iter().filter(|(_, liker)| liker == user).map(|(p, _)| p.as_str()).collect();
        let (mut listed, mut times, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let (_, page) = get(api, user, &format!("/v1/me/likes?limit=7{cursor}")).await;
            for item in page["items"].as_array().unwrap() {
                listed.push(item["productId"].as_str().unwrap().to_owned());
                times.push(item["likedAt"].as_str().unwrap().to_owned());
            }
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(listed.len(), mine.len(), "each once");
        assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), mine);
        assert!(times.is_sorted_by(|one, next| one >= next), "newest first: {times:?}");
    }
    let mut most: Vec<_> = counts.iter().map(|(product, count)| (-count, *product)).collect();
    most.sort_unstable();
    let (_, top) = get(api, "reader", "/v1/likes/top?window=all&limit=100").await;
    let top = top["items"].as_array().unwrap().iter();
    let top: Vec<_> = top.map(|item| (-item["count"].as_i64().unwrap(), item["productId"].as_str().unwrap())).collect();
    assert_eq!(top, most.into_iter().take(100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn full_database_becomes_two() {
    let whole = TestSystem::set_up(PARTITIONS).await;
    let counting = whole.aggregator(&[]).await;
    let mut old_api = whole.api(&[]).await;
    let crowd = Crowd { passing: true, ..Crowd::new(7, 10, 40) };
    let mut record = crowd.start(&[old_api.client()]).finish().await;

    // Two new databases fold the log from its start, while the old one counts on.
    let both = halves(&whole.topic).await;
    let [west, east] = &both;
    let ids = async |system: &TestSystem| system.json(&["status"]).await.1["timeOrderedIdsFrom"].clone();
    let from = ids(&whole).await;
    for system in &both {
        system.setup(&["--time-ordered-ids", from.as_str().unwrap()]).await;
        assert_eq!(ids(system).await, from);
        let other = ["setup", "--time-ordered-ids", "2026-11-22T10:00:00Z"];
        system.refused(&other, &["is recorded, and can't be changed"]).await;
    }
    let killed = west.aggregator(&[]).await;
    let of_west = [west.aggregator(&[]).await, west.aggregator(&[]).await];
    let crashing = east.aggregator(&[]).await;
    let mut api = start_api(&both);
    api.wait_until_ready().await;
    let clicking = Crowd { first_user: 10, ..crowd }.start(&[old_api.client(), api.client()]);
    clicking.clicks(200).await;
    killed.process.kill();
    crashing.process.kill();
    clicking.clicks(200).await;
    assert!(old_api.stop().await.0.success());
    let _east = east.aggregator(&[]).await;
    clicking.clicks(200).await;
    record = record.and(clicking.finish().await);
    record.wait_until_counted(&api.client()).await;

    is_seen(&api, &record).await;
    assert_eq!(of_west[0].series("likes_held_partition", "").await, [1.0; 6]);
    until("the old database has all, too", async || {
        counting.metric("likes_consumer_lag_records", "").await as u32 == 0
    })
    .await;
    for (system, record) in both.iter().zip(split(record)) {
        assert!(record.liked.len() > 50);
        assert_eq!(record.compare_tables(system).await, Differences::default());
        system.succeeds(&["audit"]).await;
        system.succeeds(&["audit", "--log"]).await;
        system.succeeds(&["rebuild", "--yes"]).await;
        assert_eq!(system.number("SELECT count(*) FROM kafka_offset").await, 6, "those of the held partitions");
        assert_eq!(record.compare_tables(system).await, Differences::default());
    }
    let sum = west.likes().await + east.likes().await;
    whole.likes_become(sum).await;
    let status = west.succeeds(&["status"]).await;
    assert!(status.contains("partitions 0-5, the others are in other databases"), "{status}");
    assert!(!status.contains("no row in kafka_offset"), "{status}");
}

/// A product of each half.
fn products() -> [String; 2] {
    let one = |wanted: bool| {
        let names = (0..).map(|n| format!("p{n}"));
        names.into_iter().find(|name| (partition(name.as_bytes(), PARTITIONS) < 6) == wanted).unwrap()
    };
    [one(true), one(false)]
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_is_away_holds_up_its_own_products_only() {
    let topic = TestSystem::set_up(PARTITIONS).await.topic;
    let both = halves(&topic).await;
    let _counting = [both[0].aggregator(&[]).await, both[1].aggregator(&[]).await];
    let mut api = start_api(&both);
    api.wait_until_ready().await;
    let of = products();
    for product in &of {
        let liked = api.client().click("ada", product, true, "1").await;
        let receipt = api.http.get(format!("{}/v1/receipts/{}", api.url, liked.receipt)).header("Prefer", "wait=10");
        let waited: Value = receipt.send().await.unwrap().json().await.unwrap();
        assert_eq!(waited["status"], "counted", "the database of {product} is polled");
    }
    both[1].database.allow_connections(false).await;
    let path = |product: &str| format!("/v1/products/{product}/likes");
    until("reads of the east fail", async || get(&api, "ada", &path(&of[1])).await.0 == 503).await;
    assert_eq!(get(&api, "ada", &path(&of[0])).await.1["count"], 1);
    assert_eq!(get(&api, "ada", &format!("/v1/likes?ids={},{}", of[0], of[1])).await.0, 503, "not half an answer");
    let stream = async |product: &str| {
        let url = format!("{}/v1/likes/stream?ids={product}", api.url);
        api.http.get(url).send().await.unwrap().status().as_u16()
    };
    assert_eq!((stream(&of[0]).await, stream(&of[1]).await), (200, 503));
    // Likes are accepted, and those of the west are counted.
    let liked = api.client().click("eve", &of[0], true, "2").await;
    api.client().wait_until_counted(&liked.receipt).await;
    let liked = api.client().click("eve", &of[1], true, "2").await;
    both[1].database.allow_connections(true).await;
    api.client().wait_until_counted(&liked.receipt).await;
    assert_eq!(api.client().likes("eve", &of).await, [(2, true), (2, true)]);
}

/// Returns the next count of a stream.
async fn next_count(stream: &mut Response) -> (String, i64) {
    let mut text = String::new();
    loop {
        if let Some((_, data)) = text.split_once("data: ")
            && let Some((data, rest)) = data.split_once("\n\n")
        {
            assert!(!rest.contains("data: "), "one at a time: {text}");
            let count: Value = serde_json::from_str(data).unwrap();
            return (count["productId"].as_str().unwrap().to_owned(), count["count"].as_i64().unwrap());
        }
        text += std::str::from_utf8(&stream.chunk().await.unwrap().expect("an open stream")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_hangs_delays_live_counts_of_its_own_products_only() {
    let topic = TestSystem::set_up(PARTITIONS).await.topic;
    let both = halves(&topic).await;
    let [west, east] = &both;
    let _counting = [west.aggregator(&[]).await, east.aggregator(&[]).await];
    let settings = [("OTHER_DATABASE_URLS", east.database.url.as_str()), ("STREAM_INTERVAL", "100ms")];
    let mut api = west.api(&settings).await;
    let of = products();
    let open = async |product: &str| {
        let opened = api.http.get(format!("{}/v1/likes/stream?ids={product}", api.url)).send().await.unwrap();
        assert_eq!(opened.status(), 200);
        opened
    };
    let mut streams = [open(&of[0]).await, open(&of[1]).await];
    for (stream, product) in streams.iter_mut().zip(&of) {
        assert_eq!(next_count(stream).await, (product.clone(), 0));
    }
    let lock = east.database.lock("LOCK TABLE product_like_count").await;
    let mut hanging = BTreeSet::<String>::new();
    let waiting = "SELECT query_start::text FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%known_count%'";
    for number in 1..=20 {
        api.client().click(&format!("u{number}"), &of[0], true, "1").await;
        hanging.extend(east.database.column(waiting).await);
        assert_eq!(next_count(&mut streams[0]).await, (of[0].clone(), number));
    }
    assert!((1..10).contains(&hanging.len()), "twenty counts of the west waited for queries of the east: {hanging:?}");
    drop(lock);
    api.client().click("ada", &of[1], true, "1").await;
    assert_eq!(next_count(&mut streams[1]).await, (of[1].clone(), 1));
    // One stream of both, in the order of its request.
    let mut stream = open(&format!("{},{}", of[1], of[0])).await;
    let mut text = String::new();
    while text.matches("data: ").count() < 2 {
        text += std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap();
    }
    let at = |product: &str| text.find(&format!("\"{product}\"")).unwrap();
    assert!(at(&of[1]) < at(&of[0]), "{text}");
    assert!(api.stop().await.0.success());
    for mut stream in streams {
        assert_eq!(stream.chunk().await.unwrap(), None, "its end");
    }
}

/// Of a like whose producer put it into another database's partition, the other database counts the unlike.
#[tokio::test]
async fn erasing_a_user_waits_for_the_partitions_of_its_database_only() {
    let (log, TestSystem { topic, .. }) = TestSystem::with_topic(PARTITIONS).await;
    let west = holding(&topic, "0-5").await;
    let _counting = west.aggregator(&[]).await;
    let [own, others] = products();
    log.publish_event(&event(&own, Some("ada"), true));
    log.publish(Some(0), Some(others.as_bytes()), Some(&event(&others, Some("ada"), true).to_json()));
    log.flush();
    west.likes_become(2).await;
    let erased = west.command(&["erase-user", "ada", "--yes"]).await;
    assert_eq!(erased.status.code(), Some(1), "{erased:?}");
    assert_eq!(west.database.column::<String>("SELECT product_id FROM product_like").await, [others]);
}

/// A database would serve counts that are too low.
#[tokio::test]
async fn log_without_its_start_is_not_divided() {
    let topic = TestTopic::create(PARTITIONS).await;
    for user in ["u1", "u2"] {
        topic.publish(Some(7), Some(b"p"), Some(&event("p", Some(user), true).to_json()));
    }
    topic.flush();
    topic.cut(7, 1).await;
    let east = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    let refused = ["the log of partition 7", "starts at 1", "only the whole log"];
    east.refused(&["setup", "--hold-partitions", "6-11"], &refused).await;
    assert_eq!(east.number("SELECT count(*) FROM likes.topic_layout").await, 0);
    // What the others have lost is no reason to keep counts of an older fold.
    let west = holding(&topic.name, "0-5").await;
    west.database.execute("UPDATE fold SET fold_version = fold_version - 1").await;
    west.refused(&["setup", "--adopt-fold-version"], &["the log still starts at 0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_partitions_are_recorded_once_and_must_be_there() {
    let topic = TestSystem::new().await.topic;
    let system = TestSystem::on(topic.clone(), TestDatabase::create_empty().await);
    system.refused(&["setup", "--hold-partitions", "0-5,5"], &["--hold-partitions", "twice"]).await;
    let beyond = ["setup", "--hold-partitions", "6-12"];
    system.refused(&beyond, &["has no partition 12: it has 0 to 11"]).await;
    let west = holding(&topic, "0-5").await;
    west.setup(&["--hold-partitions", "0-5"]).await;
    west.setup(&[]).await;
    let changed = ["setup", "--hold-partitions", "0-7"];
    west.refused(&changed, &["this database holds 0-5, which can't be changed"]).await;
    let reset = ["offsets", "reset", "--partition", "6", "--to", "earliest", "--yes"];
    west.refused(&reset, &["--partition can't be 6: the database has 0-5"]).await;

    let mut api = west.start_api(&[]);
    api.waits_for("topic_layout", "no database holds partitions 6-11").await;
    assert_eq!(get(&api, "ada", &format!("/v1/products/{}/likes", products()[1])).await.0, 503, "not a count of 0");
    let twice = west.start_api(&[("OTHER_DATABASE_URLS", &west.database.url)]);
    twice.waits_for("topic_layout", "two databases hold partition").await;
    assert!(api.process.status().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn products_stay_in_their_database_when_a_larger_topic_follows() {
    let (log, TestSystem { topic, .. }) = TestSystem::with_topic(PARTITIONS).await;
    let both = halves(&topic).await;
    let next = format!("{topic}-next");
    let setup =
        |partitions| ["setup", "--topic", &next, "--after", &topic, "--partitions", partitions].map(str::to_owned);
    both[0].refused(&setup("18").each_ref().map(String::as_str), &["only with a multiple of 12"]).await;

    let _counting = [both[0].aggregator(&[]).await, both[1].aggregator(&[]).await];
    let mut old_api = start_api(&both);
    old_api.wait_until_ready().await;
    let mut record = Crowd::new(3, 10, 30).start(&[old_api.client()]).finish().await;
    record.wait_until_counted(&old_api.client()).await;
    let of_next = [("OTHER_DATABASE_URLS", both[1].database.url.as_str()), ("KAFKA_TOPIC", &next)];
    both[0].succeeds(&setup("24")).await;
    // One database has the next topic: replicas of this topic start, and those of the next one can read.
    let mut between = start_api(&both);
    between.wait_until_ready().await;
    is_seen(&between, &record).await;
    let next_api = both[0].start_api(&of_next);
    next_api.waits_for("topic_layout", "comes before").await;
    is_seen(&next_api, &record).await;
    both[1].succeeds(&setup("24")).await;
    for mut old in [old_api, between, next_api] {
        assert!(old.stop().await.0.success());
    }
    for system in &both {
        system.succeeds(&["topics", "close", &topic, "--wait", "1m", "--yes"]).await;
    }
    let api = both[0].api(&of_next).await;
    record = record.and(Crowd { first_user: 10, ..Crowd::new(4, 10, 30) }.start(&[api.client()]).finish().await);
    let held = both[0].succeeds(&["status", "--topic", &next]).await;
    assert!(held.contains("partitions 0-5,12-17, "), "{held}");
    record.wait_until_counted(&api.client()).await;
    is_seen(&api, &record).await;
    let receipts = record.receipts.iter().map(|receipt| receipt.parse::<Receipt>().unwrap());
    assert_eq!(receipts.map(|receipt| receipt.sequence).collect::<BTreeSet<_>>(), [1, 2].into());
    for (system, record) in both.iter().zip(split(record)) {
        assert_eq!(record.compare_tables(system).await, Differences::default());
        system.succeeds(&["audit", "--log"]).await;
        let (_, topics) = system.json(&["topics"]).await;
        assert_eq!(topics["topics"][0]["state"], "closed");
    }

    // What is written past the end belongs to the database of its partition.
    log.configure(&[("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "1000000")]).await;
    let ends = log.end_offsets();
    until("an operator has lifted the fence", async || {
        log.publish_event(&event(&products()[0], Some("late"), true));
        log.flush();
        log.end_offsets() > ends
    })
    .await;
    for (system, expected) in both.iter().zip([1, 0]) {
        let behind = system.json(&["status"]).await.1["behindEnds"].as_array().unwrap().len();
        let republish = ["topics", "--json", "republish", &topic, "--yes"];
        let republished: Value = serde_json::from_str(&system.succeeds(&republish).await).unwrap();
        assert_eq!((behind, republished["events"].as_u64()), (expected, Some(expected as u64)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_of_two_topics_is_divided() {
    let whole = TestSystem::set_up(PARTITIONS).await;
    let counting = whole.aggregator(&[]).await;
    let mut api = whole.api(&[]).await;
    let mut record = Crowd::new(5, 10, 30).start(&[api.client()]).finish().await;
    assert!(api.stop().await.0.success());
    let next = format!("{}-next", whole.topic);
    let add = ["--topic", &next, "--after", &whole.topic, "--partitions", "24"];
    let close = ["topics", "close", &whole.topic, "--wait", "1m", "--yes"];
    whole.setup(&add).await;
    whole.succeeds(&close).await;
    let mut api = whole.api(&[("KAFKA_TOPIC", &next)]).await;
    record = record.and(Crowd { first_user: 10, ..Crowd::new(6, 10, 30) }.start(&[api.client()]).finish().await);
    assert!(api.stop().await.0.success());
    drop(counting);

    let both = halves(&whole.topic).await;
    let _counting = [both[0].aggregator(&[]).await, both[1].aggregator(&[]).await];
    for system in &both {
        system.setup(&add).await;
        system.succeeds(&close).await;
    }
    let of_next = [("OTHER_DATABASE_URLS", both[1].database.url.as_str()), ("KAFKA_TOPIC", &next)];
    let api = both[0].api(&of_next).await;
    record.wait_until_counted(&api.client()).await;
    is_seen(&api, &record).await;
    for (system, record) in both.iter().zip(split(record)) {
        assert_eq!(record.compare_tables(system).await, Differences::default());
        system.succeeds(&["audit", "--log"]).await;
    }
}
