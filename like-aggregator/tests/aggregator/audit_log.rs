//! `audit --log`: the live tables against what the log folds to, while everything goes on.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use like_testkit::process::{TestProcess, command};
use like_testkit::{TestSystem, event, eventually};
use serde_json::{Value, json};

async fn audit(system: &TestSystem) -> (i32, Value) {
    let output = system.command(&["audit", "--log", "--json"]).await;
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code().expect("it has ended by itself"), report)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn execute(system: &TestSystem, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&system.database.pool).await.unwrap();
}

const SCHEMAS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'likes%'";

#[tokio::test]
async fn nothing_differs_while_likes_arrive_and_are_counted() {
    let (topic, system) = TestSystem::with_topic(4).await;
    let _aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let enough = Arc::new(AtomicBool::new(false));
    let publishing = std::thread::spawn({
        let enough = Arc::clone(&enough);
        move || {
            let mut sent = 0;
            while !enough.load(Ordering::Relaxed) {
                let like = event(&format!("p{}", sent % 20), Some(&format!("u{}", sent % 333)), sent % 5 > 1);
                topic.publish_event(&like);
                topic.publish_event(&like);
                topic.publish_event(&event("deltas", None, sent % 3 > 0));
                topic.publish(None, Some(b"p1"), Some(b"garbage"));
                topic.flush();
                sent += 1;
            }
        }
    });
    eventually("it counts", async || {
        (system.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM kafka_offset").await > 500).then_some(())
    })
    .await;
    let mut folded = 0;
    for _ in 0..3 {
        let (status, report) = audit(&system).await;
        assert_eq!(status, 0, "{report}");
        assert_eq!((&report["products"]["differing"], &report["likes"]["differing"]), (&json!(0), &json!(0)));
        assert!(report["records"].as_i64().unwrap() > folded, "{report} after {folded}: nothing went on meanwhile");
        folded = report["records"].as_i64().unwrap();
    }
    enough.store(true, Ordering::Relaxed);
    publishing.join().unwrap();
    assert_eq!(system.number(SCHEMAS).await, 1, "its tables are dropped at the end");
}

#[tokio::test]
async fn every_difference_is_found_and_named() {
    let (topic, system) = TestSystem::with_topic(2).await;
    for product in ["good", "count", "delta", "liker", "lost", "extra"] {
        for user in ["u1", "u2", "u3"] {
            topic.publish_event(&event(product, Some(user), true));
        }
        topic.publish_event(&event(product, None, true));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(24).await;
    drop(aggregator);
    execute(
        &system,
        "UPDATE product_like_count SET like_count = 7 WHERE product_id = 'count';
         UPDATE product_like_count SET delta_count = 2 WHERE product_id = 'delta';
         UPDATE product_like SET liked = false WHERE (product_id, user_id) = ('liker', 'u2');
         DELETE FROM product_like_count WHERE product_id = 'lost';
         INSERT INTO product_like_count VALUES ('made-up', 1, 0, now());
         INSERT INTO product_like VALUES (gen_random_uuid(), now(), true, 'extra', 'nobody'),
                                         (gen_random_uuid(), now(), false, 'extra', 'harmless')",
    )
    .await;
    let (status, report) = audit(&system).await;
    assert_eq!(status, 1, "{report}");
    let product = |id: &str, [count, expected, deltas, expected_deltas]: [i64; 4]| json!({"productId": id, "likeCount": count, "expectedLikeCount": expected, "deltaCount": deltas, "expectedDeltaCount": expected_deltas});
    let products = [
        product("count", [7, 4, 1, 1]),
        product("delta", [4, 4, 2, 1]),
        product("lost", [0, 4, 0, 1]),
        product("made-up", [1, 0, 0, 0]),
    ];
    assert_eq!(report["products"], json!({"differing": 4, "differences": products}));
    let likes = json!({"differing": 2, "differences": [
        {"productId": "extra", "userId": "nobody", "liked": true, "expectedLiked": false},
        {"productId": "liker", "userId": "u2", "liked": false, "expectedLiked": true},
    ]});
    assert_eq!(report["likes"], likes);

    let table = system.command(&["audit", "--log"]).await;
    assert_eq!(table.status.code(), Some(1));
    let line = |cells: [&str; 4]| said(&table).lines().any(|line| line.split_whitespace().eq(cells));
    assert!(line(["products", "that", "differ", "4"]) && line(["liker", "u2", "doesn't", "likes"]), "{}", said(&table));
}

#[tokio::test]
async fn many_differences_are_counted_and_the_first_named() {
    let (topic, system) = TestSystem::with_topic(1).await;
    for n in 0..500 {
        topic.publish_event(&event(&format!("p{n:03}"), Some("u"), true));
    }
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(500).await;
    execute(&system, "UPDATE product_like_count SET like_count = 2; UPDATE product_like SET liked = false").await;
    let (_, report) = audit(&system).await;
    for (kind, first) in [("products", "p000"), ("likes", "p000")] {
        let found = &report[kind];
        assert_eq!(found["differing"], 500);
        assert_eq!(found["differences"].as_array().unwrap().len(), 100);
        assert_eq!(found["differences"][0]["productId"], first);
    }
}

#[tokio::test]
async fn it_says_when_a_replay_may_differ_and_when_it_can_not_be_done() {
    let (topic, mut system) = TestSystem::with_topic(1).await;
    for n in 0..10 {
        topic.publish_event(&event("p", Some(&format!("u{n}")), true));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(10).await;
    drop(aggregator);
    system.set("DEDUP", "batch");
    let output = system.command(&["audit", "--log"]).await;
    assert!(output.status.success() && said(&output).contains("a replay may differ"), "{output:?}");

    topic.cut(0, 3).await;
    let cut = system.command(&["audit", "--log"]).await;
    assert_eq!(cut.status.code(), Some(2), "{cut:?}");
    assert!(said(&cut).contains("starts at 3, no longer at 0"), "{cut:?}");

    // KAFKA_TOPIC and others stay set, as in the environment of a service.
    system.unset("KAFKA_BOOTSTRAP_SERVERS");
    let unset = system.command(&["audit", "--log"]).await;
    assert_eq!(unset.status.code(), Some(2), "{unset:?}");
    let why = "error: KAFKA_BOOTSTRAP_SERVERS (--kafka-bootstrap-servers) is not set: audit --log reads the log";
    assert!(said(&unset).starts_with(why), "{unset:?}");
    assert!(system.command(&["audit"]).await.status.success(), "the other audit needs no log");
    assert_eq!(system.number(SCHEMAS).await, 1);
}

#[tokio::test]
async fn told_to_end_it_drops_its_tables_and_killed_the_next_one_does() {
    let (topic, system) = TestSystem::with_topic(1).await;
    for n in 0..20_000 {
        topic.publish_event(&event("p", Some(&format!("u{n}")), true));
    }
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(20_000).await;
    let mut settings = system.settings();
    settings.push(("BATCH_MAX_EVENTS".to_owned(), "100".to_owned()));
    for kill in [false, true] {
        let mut audit = TestProcess::start("audit", command("like-aggregator", &["audit", "--log"], &settings));
        eventually("it folds", async || {
            let rows = sqlx::query_scalar::<_, i64>("SELECT like_count FROM likes_audit.product_like_count");
            rows.fetch_optional(&system.database.pool).await.ok().flatten()
        })
        .await;
        if kill {
            audit.kill();
        } else {
            audit.terminate();
        }
        let status = audit.ended().await;
        assert_eq!(status.code(), if kill { None } else { Some(2) }, "{}", audit.log());
        assert_eq!(system.number(SCHEMAS).await, if kill { 2 } else { 1 });
    }
    eventually("its connection is gone", async || {
        system.command(&["audit", "--log"]).await.status.success().then_some(())
    })
    .await;
    assert_eq!(system.number(SCHEMAS).await, 1);
}
