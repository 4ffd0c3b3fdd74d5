//! `audit`: what it calls wrong, and that a repair is exact beside workers that go on counting.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use like_testkit::{TestDatabase, TestSystem, TestTopic, event, eventually};
use serde_json::{Value, json};
use sqlx::Row;

struct Audited {
    system: TestSystem,
    topic: TestTopic,
}

impl Audited {
    async fn set_up(partitions: i32) -> Self {
        let topic = TestTopic::create(partitions).await;
        let system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
        system.setup(&["--partitions", &partitions.to_string()]).await;
        Self { system, topic }
    }

    /// Runs `audit` with these flags; answers its exit status and its JSON.
    async fn audit(&self, flags: &[&str]) -> (i32, Value) {
        let output = self.system.command(&[&["audit", "--json"], flags].concat()).await;
        (status(&output), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}")))
    }

    async fn execute(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.system.database.pool).await.unwrap();
    }
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

/// Three products with two likes each, one with none left, one brought below zero by delta events;
/// then everything that can be wrong with a count, one product for each.
async fn with_wrong_counts() -> Audited {
    let audited = Audited::set_up(2).await;
    let topic = &audited.topic;
    for product in ["high", "low", "missing", "orphan-2"] {
        topic.publish_event(&event(product, Some("u1"), true));
        topic.publish_event(&event(product, Some("u2"), true));
    }
    topic.publish_event(&event("gone", Some("u1"), true));
    for user in [None, None, Some("u1")] {
        topic.publish_event(&event("minus", user, user.is_some()));
    }
    topic.flush();
    let aggregator = audited.system.aggregator(&[]).await;
    audited.system.folded(12).await;
    eventually("a metric says that a count is below zero", async || {
        (aggregator.metric("likes_counts_below_zero_total", "").await as u32 > 0).then_some(())
    })
    .await;
    topic.publish_event(&event("gone", Some("u1"), false));
    topic.flush();
    audited.system.folded(13).await;
    audited
}

async fn spoil(audited: &Audited) {
    audited.execute("UPDATE product_like_count SET like_count = like_count + 3 WHERE product_id = 'high'").await;
    audited.execute("UPDATE product_like_count SET like_count = like_count - 3 WHERE product_id = 'low'").await;
    audited.execute("DELETE FROM product_like_count WHERE product_id = 'missing'").await;
    audited.execute("UPDATE product_like_count SET like_count = 1 WHERE product_id = 'gone'").await;
    audited.execute("DELETE FROM product_like WHERE product_id = 'orphan-2'").await;
    let minus = "INSERT INTO product_like_count VALUES ('orphan-1', 5, -2, now()), ('zero', 0, 0, now())";
    audited.execute(minus).await;
}

#[tokio::test]
async fn counts_that_are_the_likers_and_the_deltas_are_clean_and_those_below_zero_are_named() {
    let audited = with_wrong_counts().await;
    let (status, report) = audited.audit(&[]).await;
    assert_eq!(status, 0, "below zero by delta events is no difference");
    let minus = json!({"productId": "minus", "likers": 1, "deltas": -2, "expected": -1, "found": -1});
    assert_eq!(
        report,
        json!({"products": 6, "differing": 0, "repaired": 0, "negative": 1, "differences": [], "negatives": [minus]})
    );
}

#[tokio::test]
async fn every_kind_of_wrong_count_is_found_shown_and_repaired() {
    let audited = with_wrong_counts().await;
    spoil(&audited).await;
    let wrong = |product: &str, likers: i64, deltas: i64, found: Option<i64>| json!({"productId": product, "likers": likers, "deltas": deltas, "expected": likers + deltas, "found": found});
    let expected = vec![
        wrong("gone", 0, 0, Some(1)),
        wrong("high", 2, 0, Some(5)),
        wrong("low", 2, 0, Some(-1)),
        wrong("missing", 2, 0, None),
        wrong("orphan-1", 0, -2, Some(5)),
        wrong("orphan-2", 0, 0, Some(2)),
    ];
    let differences = |report: &Value| {
        let mut found = report["differences"].as_array().unwrap().clone();
        found.sort_by_key(|product| product["productId"].as_str().unwrap().to_owned());
        found
    };
    let (status, report) = audited.audit(&[]).await;
    assert_eq!((status, differences(&report)), (1, expected.clone()));
    assert_eq!((&report["products"], &report["differing"]), (&json!(8), &json!(6)));
    let table = String::from_utf8(audited.system.command(&["audit"]).await.stdout).unwrap();
    let has = |cells: [&str; 5]| table.lines().any(|line| line.split_whitespace().eq(cells));
    assert!(has(["missing", "2", "0", "2", "-"]) && has(["high", "2", "0", "2", "5"]), "{table}");

    // Asked for, but not told that it may.
    let refused = audited.system.command(&["audit", "--repair"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--yes"), "{refused:?}");
    assert_eq!(audited.audit(&[]).await.0, 1, "nothing was repaired");

    let (status, report) = audited.audit(&["--repair", "--yes"]).await;
    assert_eq!((status, differences(&report)), (1, expected));
    assert_eq!(report["repaired"], 6);
    let (status, report) = audited.audit(&[]).await;
    assert_eq!((status, &report["negative"]), (0, &json!(2)), "orphan-1 is below zero by its deltas");
    assert_eq!(audited.system.wrong_counts().await, 0);
}

#[tokio::test]
async fn a_repair_waits_for_the_batch_in_progress_and_counts_it() {
    let audited = with_wrong_counts().await;
    spoil(&audited).await;
    // What a worker does, stopped in the middle.
    let mut batch = audited.system.database.pool.begin().await.unwrap();
    for sql in [
        "SELECT FROM kafka_offset ORDER BY partition FOR UPDATE",
        "INSERT INTO product_like VALUES (gen_random_uuid(), now(), true, 'unseen', 'u')",
        "UPDATE product_like SET liked = false WHERE product_id = 'high' AND user_id = 'u1'",
        "UPDATE product_like_count SET like_count = like_count - 1 WHERE product_id = 'high'",
    ] {
        sqlx::query(sql).execute(&mut *batch).await.unwrap();
    }
    let repair = async { audited.audit(&["--repair", "--yes"]).await };
    let commit = async {
        eventually("the repair waits for the batch", async || {
            let sql = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity
                       WHERE application_name = 'like-aggregator-audit' AND datname = current_database()";
            let row = sqlx::query(sql).fetch_optional(&audited.system.database.pool).await.unwrap();
            row.is_some_and(|row| row.get::<Option<bool>, _>(0) == Some(true)).then_some(())
        })
        .await;
        batch.commit().await.unwrap();
    };
    let ((status, _), ()) = tokio::join!(repair, commit);
    assert_eq!(status, 1);
    let high = "SELECT like_count FROM product_like_count WHERE product_id = 'high'";
    assert_eq!(audited.system.number(high).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_aggregators_that_count_an_audit_is_clean_and_a_repair_loses_nothing() {
    let audited = Audited::set_up(4).await;
    let quick = [("BATCH_MAX_WAIT", "1ms"), ("BATCH_MAX_EVENTS", "50")];
    let _aggregators = (audited.system.aggregator(&quick).await, audited.system.aggregator(&quick).await);
    let enough = Arc::new(AtomicBool::new(false));
    let Audited { system, topic } = audited;
    let stop = Arc::clone(&enough);
    let likes = std::thread::spawn(move || {
        let mut sent = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let (product, user) = (format!("p{}", sent % 5), format!("u{}", sent % 997));
            topic.publish_event(&event(
                &product,
                (!sent.is_multiple_of(10)).then_some(user.as_str()),
                !sent.is_multiple_of(3),
            ));
            sent += 1;
            if sent.is_multiple_of(20) {
                std::thread::sleep(std::time::Duration::from_millis(1)); // a stream, not a backlog
            }
        }
        topic.flush();
        topic
    });
    system.number_becomes("SELECT least(count(*), 5) FROM product_like_count", 5).await;
    for _ in 0..5 {
        assert_eq!(status(&system.command(&["audit"]).await), 0);
        let spoil = "UPDATE product_like_count SET like_count = like_count + 7";
        sqlx::query(spoil).execute(&system.database.pool).await.unwrap();
        assert_eq!(status(&system.command(&["audit", "--repair", "--yes"]).await), 1);
        assert_eq!(status(&system.command(&["audit"]).await), 0);
    }
    enough.store(true, Ordering::Relaxed);
    let topic = tokio::task::spawn_blocking(|| likes.join().unwrap()).await.unwrap();
    system.folded(topic.end_offsets().iter().sum()).await;
    assert_eq!(status(&system.command(&["audit"]).await), 0);
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn likes_and_products_of_many_chunks_are_all_compared_and_the_first_thousand_named() {
    let audited = Audited::set_up(1).await;
    // 60,000 users like one product, and another 60,000 products have one like each.
    audited
        .execute(
            "WITH pairs AS (SELECT 'hot' AS product, 'u' || n AS person FROM generate_series(1, 60000) n
                            UNION ALL SELECT 'p' || n, 'u' FROM generate_series(1, 60000) n),
                  bytes AS (SELECT *, int4send(octet_length(product)) || product::bytea AS p,
                                   int4send(octet_length(person)) || person::bytea AS u FROM pairs)
             INSERT INTO product_like (pair_key, changed_at, liked, product_id, user_id)
             SELECT encode(substr(sha256(p), 1, 4) || substr(sha256(p || u), 1, 12), 'hex')::uuid, now(), true, product, person
             FROM bytes",
        )
        .await;
    let counts = "INSERT INTO product_like_count SELECT product_id, count(*), 0, now() FROM product_like GROUP BY 1";
    audited.execute(counts).await;
    let (status, report) = audited.audit(&[]).await;
    assert_eq!((status, &report["products"]), (0, &json!(60_001)));

    audited
        .execute("UPDATE product_like_count SET like_count = 0 WHERE product_id LIKE 'p1%' OR product_id = 'hot'")
        .await;
    let (status, report) = audited.audit(&["--repair", "--yes"]).await;
    let spoilt = 1 + (1 + 10 + 100 + 1_000 + 10_000);
    assert_eq!((status, &report["differing"], &report["repaired"]), (1, &json!(spoilt), &json!(spoilt)));
    assert_eq!(report["differences"].as_array().unwrap().len(), 1_000);
    assert_eq!(audited.audit(&[]).await.0, 0);
    assert_eq!(audited.system.wrong_counts().await, 0);
}

#[tokio::test]
async fn an_audit_that_cannot_run_says_so_with_status_2() {
    let system = TestSystem::new().await;
    let output = system.command(&["audit"]).await;
    assert_eq!(status(&output), 2, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("product_like"), "{output:?}");
}
