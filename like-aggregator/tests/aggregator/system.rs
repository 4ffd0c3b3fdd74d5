//! The whole system as its users see it: likes over HTTP into the real like-api, counted by real
//! like-aggregators that are killed and stopped. Every acknowledged like is counted exactly once.

use std::time::Duration;

use crate::common::{kafka_properties, owns};
use like_testkit::{Crowd, TestService, TestSystem, until};
use tokio::task::JoinSet;

const PARTITIONS: i32 = 8;

async fn committed(aggregator: &TestService) -> f64 {
    aggregator.metric("likes_events_total", "").await
}

/// Two in one group, once each owns its half of the partitions.
async fn two_aggregators(system: &TestSystem, settings: &[(&str, &str)]) -> [TestService; 2] {
    let two = [system.aggregator(settings).await, system.aggregator(settings).await];
    owns(&two[0], PARTITIONS / 2).await;
    owns(&two[1], PARTITIONS / 2).await;
    two
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_likes_count_once() {
    let system = TestSystem::set_up(PARTITIONS).await;
    let api = system.api(&[]).await;
    let aggregators = two_aggregators(&system, &[]).await;

    let record = Crowd::new(1, 200, 15).start(&[api.client()]).finish().await;
    record.is_counted(&system, &api.client()).await;

    let mut all = 0.0;
    for aggregator in &aggregators {
        let own = committed(aggregator).await;
        assert!(own > 0.0, "one of them has counted nothing, so this test proves nothing");
        all += own;
    }
    assert_eq!(all as usize, record.receipts.len(), "each record once, by one of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn last_click_of_a_user_counts() {
    let system = TestSystem::set_up(1).await;
    let api = system.api(&[]).await;
    // Several clicks of a user in a batch, and many batches.
    let _aggregator = system.aggregator(&[("BATCH_MAX_WAIT", "50ms")]).await;
    let ends_liking = |user: usize| user % 4 < 2;
    let mut users = JoinSet::new();
    for user in 0..12 {
        let client = api.client();
        // One click more than the user before: in the batches of their ends each has another number.
        let clicks = 180 + user;
        users.spawn(async move {
            let mut receipt = String::new();
            for n in 1..=clicks {
                let liked = ends_liking(user) == ((clicks - n) % 2 == 0);
                receipt = client.click(&format!("user-{user}"), "p", liked, &n.to_string()).await.receipt;
            }
            client.wait_until_counted(&receipt).await;
        });
    }
    users.join_all().await;
    for user in 0..12 {
        let likes = api.client().likes(&format!("user-{user}"), &["p".to_owned()]).await;
        assert_eq!(likes, [(6, ends_liking(user))], "user-{user}");
    }
}

/// An id begins with the time that its key claims, and repeats are judged by record time.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_time_name_one_click() {
    let system = TestSystem::set_up(1).await;
    let (api, _aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    let client = api.client();
    let click = async |liked, key| {
        let clicked = client.click("ada", "p", liked, key).await;
        client.wait_until_counted(&clicked.receipt).await;
        clicked.event_id.to_string()
    };
    let [of_1970, of_10889] = ["00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff"];
    let liked = click(true, of_1970).await;
    assert!(liked.starts_with("00000000-0000-8"), "{liked}");
    let unliked = click(false, of_10889).await;
    assert!(unliked.starts_with("ffffffff-ffff-8"), "{unliked}");
    assert_eq!(click(true, of_1970).await, liked);
    assert_eq!(client.likes("ada", &["p".to_owned()]).await, [(0, false)], "the repeat is dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn survivor_counts_after_a_kill() {
    let mut system = TestSystem::set_up(PARTITIONS).await;
    let api = system.api(&[]).await;
    let _file = kafka_properties(&mut system, "session.timeout.ms=6000\nheartbeat.interval.ms=1000\n");
    let [survivor, mut victim] = two_aggregators(&system, &[("BATCH_MAX_WAIT", "10ms")]).await;

    let crowd = Crowd::new(1, 8, 50).start(&[api.client()]);
    until("the victim counts", async || committed(&victim).await > 50.0).await;
    victim.process.kill();
    assert!(!victim.process.ended().await.success());
    owns(&survivor, PARTITIONS).await;

    crowd.finish().await.is_counted(&system, &api.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing() {
    let system = TestSystem::set_up(PARTITIONS).await;
    let mut api = system.api(&[]).await;
    let mut aggregator = system.aggregator(&[]).await;
    let crowd = Crowd::new(1, 50, 5).start(&[api.client()]);
    until("it counts", async || committed(&aggregator).await > 50.0).await;

    // Both have work in progress, and the users continue.
    let (of_api, of_aggregator) = tokio::join!(api.stop(), aggregator.stop());
    for (status, took) in [of_api, of_aggregator] {
        assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
    }
    let same_address = api.url.trim_start_matches("http://");
    let api = system.api(&[("LISTEN_ADDR", same_address)]).await;
    let _aggregator = system.aggregator(&[]).await;

    crowd.finish().await.is_counted(&system, &api.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counted_like_is_seen_by_any_replica() {
    let system = TestSystem::set_up(PARTITIONS).await;
    let replicas = [system.api(&[]).await, system.api(&[]).await];
    let _aggregator = system.aggregator(&[("BATCH_MAX_WAIT", "10ms")]).await;
    // Anonymous readers keep the count in the caches of both, always a little old.
    let mut readers = JoinSet::new();
    for replica in &replicas {
        let (http, url) = (replica.http.clone(), format!("{}/v1/products/p/likes", replica.url));
        readers.spawn(async move {
            loop {
                assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let kept = async |replica: &TestService| replica.metric("likes_count_cache_requests_total", "hit").await;
    for likes in 1..=15 {
        let before = [kept(&replicas[0]).await, kept(&replicas[1]).await];
        let user = format!("user-{likes}");
        let receipt = replicas[0].client().click(&user, "p", true, "like").await.receipt;
        let waiting = format!("{}/v1/receipts/{receipt}", replicas[1].url);
        loop {
            let answer = replicas[1].http.get(&waiting).header("Prefer", "wait=10").send().await.unwrap();
            let answer: serde_json::Value = answer.json().await.unwrap();
            if answer["status"] == "counted" {
                break;
            }
            assert_eq!(answer["status"], "pending");
        }
        for (replica, before) in replicas.iter().zip(before) {
            assert_eq!(replica.client().likes(&user, &["p".to_owned()]).await, [(likes, true)]);
            until("the cache is in use", async || kept(replica).await > before).await;
        }
    }
    readers.abort_all();
    while let Some(reader) = readers.join_next().await {
        assert!(reader.unwrap_err().is_cancelled(), "an anonymous reader was refused");
    }
}
