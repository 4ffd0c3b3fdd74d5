//! `audit --log`: compares the live tables with the folded log while workers count.

use crate::common::{Publishing, has_row, long_log};
use like_testkit::process::{TestProcess, command};
use like_testkit::{TestSystem, event, eventually, until};
use serde_json::json;

const AUDIT: [&str; 2] = ["audit", "--log"];
const SCHEMAS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'likes%'";

#[tokio::test]
async fn audit_beside_workers_is_clean() {
    let (topic, system) = TestSystem::with_topic(4).await;
    let _aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let publishing = Publishing::start(topic, |topic, n| {
        let like = event(&format!("p{}", n % 20), Some(&format!("u{}", n % 333)), n % 5 > 1);
        topic.publish_event(&like);
        topic.publish_event(&like);
        topic.publish_event(&event("deltas", None, n % 3 > 0));
        topic.publish(None, Some(b"p1"), Some(b"garbage"));
        topic.flush();
    });
    until("it counts", async || {
        system.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM kafka_offset").await > 500
    })
    .await;
    let mut folded = 0;
    for _ in 0..3 {
        let (status, report) = system.json(&AUDIT).await;
        assert_eq!(status, 0, "{report}");
        assert_eq!((&report["products"]["differing"], &report["likes"]["differing"]), (&json!(0), &json!(0)));
        assert!(
            report["records"].as_i64().unwrap() > folded,
            "{report} after {folded}: no record was folded in between"
        );
        folded = report["records"].as_i64().unwrap();
    }
    publishing.stop().await;
    assert_eq!(system.number(SCHEMAS).await, 1, "the shadow schema is dropped at the end");
}

#[tokio::test]
async fn each_difference_is_named() {
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
    system
        .database
        .execute(
            "UPDATE product_like_count SET like_count = 7 WHERE product_id = 'count';
         UPDATE product_like_count SET delta_count = 2 WHERE product_id = 'delta';
         UPDATE product_like SET liked = false WHERE (product_id, user_id) = ('liker', 'u2');
         DELETE FROM product_like_count WHERE product_id = 'lost';
         INSERT INTO product_like_count VALUES ('made-up', 1, 0, now());
         -- Another hour, with the same sum; a day that is summed; likes without an hour, and one too many in an hour.
         INSERT INTO product_like_hour SELECT hour + interval '1 hour', product_id, 1 FROM product_like_hour WHERE product_id = 'good';
         UPDATE product_like_hour SET likes = likes - 1 WHERE product_id = 'good' AND likes > 1;
         INSERT INTO product_like_hour VALUES ('-infinity', 'extra', 2), ('-infinity', 'lost', 1);
         UPDATE product_like_hour SET likes = likes - 2 WHERE product_id = 'extra' AND hour > '-infinity';
         INSERT INTO product_like VALUES (gen_random_uuid(), now(), true, 'extra', 'unliked'),
                                         (gen_random_uuid(), now(), false, 'extra', 'harmless')",
        )
        .await;
    let (status, report) = system.json(&AUDIT).await;
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
        {"productId": "extra", "userId": "unliked", "liked": true, "expectedLiked": false},
        {"productId": "liker", "userId": "u2", "liked": false, "expectedLiked": true},
    ]});
    assert_eq!(report["likes"], likes);
    assert_eq!(report["hours"]["differing"], 3, "{report}");
    let hours = report["hours"]["differences"].as_array().unwrap().iter();
    let hours: Vec<_> = hours.map(|h| (&h["productId"], h["at"].is_null(), &h["likes"], &h["expectedLikes"])).collect();
    let [good, lost, no] = [json!("good"), json!("lost"), json!(0)];
    let (three, four, five) = (json!(3), json!(4), json!(5));
    assert_eq!(hours, [(&good, false, &three, &four), (&good, false, &json!(1), &no), (&lost, true, &five, &four)]);

    let table = String::from_utf8(system.command(&AUDIT).await.stdout).unwrap();
    assert!(has_row(&table, &["products", "that", "differ", "4"]), "{table}");
    assert!(has_row(&table, &["liker", "u2", "doesn't", "likes"]), "{table}");
    assert!(has_row(&table, &["lost", "all", "5", "4"]), "{table}");
}

#[tokio::test]
async fn first_of_many_differences_are_named() {
    let (topic, system) = TestSystem::with_topic(1).await;
    for n in 0..500 {
        topic.publish_event(&event(&format!("p{n:03}"), Some("u"), true));
    }
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(500).await;
    system
        .database
        .execute("UPDATE product_like_count SET like_count = 2; UPDATE product_like SET liked = false")
        .await;
    let (_, report) = system.json(&AUDIT).await;
    for (kind, first) in [("products", "p000"), ("likes", "p000")] {
        let found = &report[kind];
        assert_eq!(found["differing"], 500);
        assert_eq!(found["differences"].as_array().unwrap().len(), 100);
        assert_eq!(found["differences"][0]["productId"], first);
    }
}

#[tokio::test]
async fn incomplete_log_is_refused() {
    let (topic, mut system) = TestSystem::with_topic(1).await;
    for n in 0..10 {
        topic.publish_event(&event("p", Some(&format!("u{n}")), true));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(10).await;
    drop(aggregator);
    system.setup(&["--dedup", "batch", "--change-dedup"]).await;
    let printed = system.succeeds(&AUDIT).await;
    assert!(printed.contains("a replay may differ"), "{printed}");

    topic.cut(0, 3).await;
    system.refused(&AUDIT, &["starts at 3, no longer at 0"]).await;

    // KAFKA_TOPIC and others stay set, as in the environment of a service.
    system.unset("KAFKA_BOOTSTRAP_SERVERS");
    let why = "error: KAFKA_BOOTSTRAP_SERVERS (--kafka-bootstrap-servers) is not set: audit --log reads the log";
    let printed = system.refused(&AUDIT, &[]).await;
    assert!(printed.starts_with(why), "{printed}");
    system.succeeds(&["audit"]).await; // reads no log
    assert_eq!(system.number(SCHEMAS).await, 1);
}

#[tokio::test]
async fn stopped_audit_leaves_no_schema() {
    let (system, _aggregator, settings) = long_log().await;
    for kill in [false, true] {
        let mut audit = TestProcess::start("audit", command("like-aggregator", &AUDIT, &settings));
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
    until("its connection is gone", async || system.command(&AUDIT).await.status.success()).await;
    assert_eq!(system.number(SCHEMAS).await, 1);
}
