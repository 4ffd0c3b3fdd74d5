//! Concurrent reads of counts: how many queries they take, and how old an answer may be.

use std::time::Instant;

use futures::FutureExt;
use futures::future::join_all;
use like_api::read::counts::{CACHE_AGE, Counts};
use like_api::read::databases::Databases;
use like_events::{ProductId, UserId};
use like_testkit::TestDatabase;
use prometheus::Registry;
use reqwest::Method;

use crate::common::{Answer, TestApp, config, histogram};
use crate::stream::count;

#[tokio::test]
async fn concurrent_reads_share_queries() {
    let database = TestDatabase::create().await;
    count(&database, &["p1"], 7).await;
    let registry = Registry::new();
    let counts = Counts::new(&Databases::open(&config("t", &database.url)), &registry);
    let product = [ProductId::parse("p1").unwrap()];
    let users: Vec<UserId> = (0..100).map(|n| UserId::parse(&format!("u{n}")).unwrap()).collect();
    // PostgreSQL answers after all reads have begun.
    let mut holder = database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
    let anonymous = (0..100).map(|_| counts.read(&product, None).boxed());
    let known = users.iter().map(|user| counts.read(&product, Some(user)).boxed());
    let mut reads: Vec<_> = anonymous.chain(known).collect();
    for read in &mut reads {
        assert!(read.now_or_never().is_none());
    }
    holder.rollback().await.unwrap();
    for read in join_all(reads).await {
        assert_eq!(read.unwrap()[0].count, 7);
    }
    let (queries, read) = histogram(&registry, "likes_count_query_reads");
    assert_eq!(read as u64, 200);
    assert!(queries <= 5, "{queries} queries");
}

#[tokio::test]
async fn only_anonymous_reads_are_cached() {
    let api = TestApp::ready(1).await;
    count(&api.database, &["p1"], 1).await;
    let (one, many) = ("/v1/products/p1/likes", "/v1/likes?ids=p1,p1");
    let counted = |answer: &Answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = if answer.json.is_array() { &answer.json[1] } else { &answer.json };
        json["count"].as_i64().unwrap()
    };
    for now in 2..10 {
        // Fills the cache.
        for path in [one, many] {
            counted(&api.get(path).await);
        }
        count(&api.database, &["p1"], now).await;
        let changed = Instant::now();
        for path in [one, many] {
            assert_eq!(counted(&api.send(Method::GET, path, &[("X-User-Id", "u1")]).await), now);
        }
        // Constant reading makes a cached count no older.
        let mut path = [one, many].into_iter().cycle();
        loop {
            let asked = Instant::now();
            let told = counted(&api.get(path.next().unwrap()).await);
            assert!(told == now || told == now - 1 && asked < changed + CACHE_AGE, "{told} instead of {now}");
            if told == now {
                break;
            }
        }
    }
    let hits = api.port.metric("likes_count_cache_requests_total", "hit").await;
    assert!(hits > 0.0, "the cache was not used, so this test shows nothing");
}
