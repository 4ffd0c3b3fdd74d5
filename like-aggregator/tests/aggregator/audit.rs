//! `audit`: which counts it calls wrong, and that a repair is exact while workers count.

use crate::common::{LOCK_OFFSETS, Publishing, has_row, table_reads};
use like_testkit::{TestSystem, TestTopic, event, until};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

/// Runs `audit` with these flags; returns its exit status and its report.
async fn audit(system: &TestSystem, flags: &[&str]) -> (i32, Value) {
    system.json(&[&["audit"], flags].concat()).await
}

/// Five products with two likes each, one with none left, one brought below zero by delta events.
async fn with_counts() -> (TestTopic, TestSystem) {
    let (topic, system) = TestSystem::with_topic(2).await;
    for product in ["high", "hours", "low", "missing", "orphan-2"] {
        topic.publish_event(&event(product, Some("u1"), true));
        topic.publish_event(&event(product, Some("u2"), true));
    }
    topic.publish_event(&event("gone", Some("u1"), true));
    for user in [None, None, Some("u1")] {
        topic.publish_event(&event("minus", user, user.is_some()));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(14).await;
    until("a metric says that a count is below zero", async || {
        aggregator.metric("likes_counts_below_zero_total", "").await as u32 > 0
    })
    .await;
    topic.publish_event(&event("gone", Some("u1"), false));
    topic.flush();
    system.folded(15).await;
    (topic, system)
}

/// Everything that can be wrong with a count, one product for each.
const SPOIL: &str = "
    UPDATE product_like_count SET like_count = like_count + 3 WHERE product_id = 'high';
    UPDATE product_like_count SET like_count = like_count - 3 WHERE product_id = 'low';
    UPDATE product_like_hour SET likes = likes + 4 WHERE product_id = 'hours';
    DELETE FROM product_like_count WHERE product_id = 'missing';
    UPDATE product_like_count SET like_count = 1 WHERE product_id = 'gone';
    DELETE FROM product_like WHERE product_id = 'orphan-2';
    INSERT INTO product_like_count VALUES ('orphan-1', 5, -2, now()), ('zero', 0, 0, now())";

#[tokio::test]
async fn right_counts_are_clean_below_zero() {
    let (_topic, system) = with_counts().await;
    let (status, report) = audit(&system, &[]).await;
    assert_eq!(status, 0, "below zero by delta events is no difference");
    let minus = json!({"productId": "minus", "likers": 1, "deltas": -2, "expected": -1, "found": -1, "hours": -1});
    assert_eq!(
        report,
        json!({"products": 7, "differing": 0, "repaired": 0, "differingHours": 0, "repairedHours": 0, "negative": 1,
               "differences": [], "negatives": [minus]})
    );
}

#[tokio::test]
async fn each_wrong_count_is_repaired() {
    let (_topic, system) = with_counts().await;
    system.database.execute(SPOIL).await;
    let wrong = |product: &str, likers: i64, deltas: i64, found: Option<i64>, hours: i64| json!({"productId": product, "likers": likers, "deltas": deltas, "expected": likers + deltas, "found": found, "hours": hours});
    let expected = vec![
        wrong("gone", 0, 0, Some(1), 0),
        wrong("high", 2, 0, Some(5), 2),
        wrong("hours", 2, 0, Some(2), 6),
        wrong("low", 2, 0, Some(-1), 2),
        wrong("missing", 2, 0, None, 2),
        wrong("orphan-1", 0, -2, Some(5), 0),
        wrong("orphan-2", 0, 0, Some(2), 2),
    ];
    let differences = |report: &Value| {
        let mut found = report["differences"].as_array().unwrap().clone();
        found.sort_by_key(|product| product["productId"].as_str().unwrap().to_owned());
        found
    };
    let (status, report) = audit(&system, &[]).await;
    assert_eq!((status, differences(&report)), (1, expected.clone()));
    assert_eq!((&report["products"], &report["differing"]), (&json!(9), &json!(6)));
    assert_eq!(report["differingHours"], 3);
    let table = String::from_utf8(system.command(&["audit"]).await.stdout).unwrap();
    for row in [["missing", "2", "0", "2", "-", "2"], ["high", "2", "0", "2", "5", "2"]] {
        assert!(has_row(&table, &row), "{table}");
    }

    system.refused(&["audit", "--repair"], &["--yes"]).await;
    assert_eq!(audit(&system, &[]).await.0, 1, "nothing was repaired");

    let (status, report) = audit(&system, &["--repair", "--yes"]).await;
    assert_eq!((status, differences(&report)), (1, expected));
    assert_eq!((&report["repaired"], &report["repairedHours"]), (&json!(6), &json!(3)));
    let (status, report) = audit(&system, &[]).await;
    assert_eq!((status, &report["negative"]), (0, &json!(2)), "orphan-1 is below zero by its deltas");
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn repair_adds_to_a_batch_in_progress() {
    let (_topic, system) = with_counts().await;
    system.database.execute(SPOIL).await;
    // The statements of a batch, up to its commit: the repair takes likes and count from before it, and adds to its count.
    let mut batch = system.database.lock("SELECT FROM kafka_offset ORDER BY partition FOR UPDATE").await;
    for sql in [
        "INSERT INTO product_like VALUES (gen_random_uuid(), now(), true, 'unseen', 'u')",
        "UPDATE product_like SET liked = false WHERE product_id = 'high' AND user_id = 'u1'",
        "UPDATE product_like_count SET like_count = like_count - 1 WHERE product_id = 'high'",
        "UPDATE product_like_hour SET likes = likes - 1 WHERE product_id = 'high'",
    ] {
        sqlx::query(sql).execute(&mut *batch).await.unwrap();
    }
    let commit = async {
        system.database.waiting_for_lock("like-aggregator-audit", 2).await;
        batch.commit().await.unwrap();
    };
    // Another repair meanwhile adds nothing a second time.
    let repair = || audit(&system, &["--repair", "--yes"]);
    let ((status, _), (other, _), ()) = tokio::join!(repair(), repair(), commit);
    assert_eq!(status.max(other), 1);
    let high = "SELECT like_count FROM product_like_count WHERE product_id = 'high'";
    assert_eq!(system.number(high).await, 1);
    let high = "SELECT sum(likes)::bigint FROM product_like_hour WHERE product_id = 'high'";
    assert_eq!(system.number(high).await, 1);
    assert_eq!(audit(&system, &[]).await.0, 0, "the second repair has seen the batch's row without a count");
}

#[tokio::test]
async fn repair_leaves_swapped_tables_alone() {
    let (_topic, system) = with_counts().await;
    system.database.execute(SPOIL).await;
    // A swap, for which the repair of what it has compared waits.
    let mut swap = system.database.lock(LOCK_OFFSETS).await;
    let swapped = async {
        system.database.waiting_for_lock("like-aggregator-audit", 1).await;
        sqlx::raw_sql("ALTER SCHEMA likes RENAME TO likes_old; CREATE SCHEMA likes").execute(&mut *swap).await.unwrap();
        for table in ["kafka_offset", "fold", "product_like", "product_like_count", "product_like_hour"] {
            let copy = format!(
                "CREATE TABLE likes.{table} (LIKE likes_old.{table} INCLUDING ALL);
                 INSERT INTO likes.{table} SELECT * FROM likes_old.{table}"
            );
            sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut *swap).await.unwrap();
        }
        swap.commit().await.unwrap();
    };
    let repair = system.refused(&["audit", "--repair", "--yes"], &["a rebuild has replaced the tables"]);
    tokio::join!(repair, swapped);
    let changed = "SELECT count(*) FROM (TABLE likes.product_like_count EXCEPT TABLE likes_old.product_like_count) c";
    assert_eq!(system.number(changed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_beside_workers_loses_nothing() {
    let (topic, system) = TestSystem::with_topic(4).await;
    let quick = [("BATCH_MAX_WAIT", "1ms"), ("BATCH_MAX_EVENTS", "50")];
    let _aggregators = (system.aggregator(&quick).await, system.aggregator(&quick).await);
    let publishing = Publishing::start(topic, |topic, n| {
        let (product, user) = (format!("p{}", n % 5), format!("u{}", n % 997));
        topic.publish_event(&event(&product, (n % 10 != 0).then_some(user.as_str()), n % 3 != 0));
        if n % 20 == 19 {
            std::thread::sleep(std::time::Duration::from_millis(1)); // a stream, not a backlog
        }
    });
    system.number_becomes("SELECT least(count(*), 5) FROM product_like_count", 5).await;
    let status = async |args: &[&str]| system.command(args).await.status.code();
    for _ in 0..5 {
        assert_eq!(status(&["audit"]).await, Some(0));
        system.database.execute("UPDATE product_like_count SET like_count = like_count + 7").await;
        system.database.execute("UPDATE product_like_hour SET likes = likes - 7").await;
        assert_eq!(status(&["audit", "--repair", "--yes"]).await, Some(1));
        assert_eq!(status(&["audit"]).await, Some(0));
    }
    let topic = publishing.stop().await;
    system.folded(topic.end_offsets().iter().sum()).await;
    assert_eq!(status(&["audit"]).await, Some(0));
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn many_counts_are_repaired_in_chunks() {
    let (_topic, system) = TestSystem::with_topic(1).await;
    // 60,000 users like one product, and another 60,000 products have one like each.
    system.database.execute(
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
    system.database.execute(counts).await;
    // As an earlier release left them: without hours.
    let (status, report) = audit(&system, &["--repair", "--yes"]).await;
    assert_eq!((status, &report["differing"], &report["repaired"]), (1, &json!(0), &json!(0)));
    assert_eq!((&report["differingHours"], &report["repairedHours"]), (&json!(60_001), &json!(60_001)));
    let (status, report) = audit(&system, &[]).await;
    assert_eq!((status, &report["products"]), (0, &json!(60_001)));
    assert_eq!(system.number("SELECT count(*) FROM product_like_hour WHERE hour > '-infinity'").await, 0);

    system
        .database
        .execute("UPDATE product_like_count SET like_count = 0 WHERE product_id LIKE 'p1%' OR product_id = 'hot'")
        .await;
    let (status, report) = audit(&system, &["--repair", "--yes"]).await;
    let spoilt = 1 + (1 + 10 + 100 + 1_000 + 10_000);
    assert_eq!((status, &report["differing"], &report["repaired"]), (1, &json!(spoilt), &json!(spoilt)));
    assert_eq!(report["differences"].as_array().unwrap().len(), 1_000);
    assert_eq!(audit(&system, &[]).await.0, 0);
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn likes_are_read_once_in_the_order_of_the_disk() {
    let (_topic, system) = with_counts().await;
    system.database.execute(SPOIL).await;
    // Plans of the command's own sessions, as warnings in its log.
    let name: Vec<String> = system.database.column("SELECT current_database()::text").await;
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_level = 'warning'",
    ] {
        system.database.execute(format!("ALTER DATABASE {} SET {setting}", name[0])).await;
    }
    for flags in [&["audit"][..], &["audit", "--repair", "--yes"]] {
        let before = table_reads(&system, "like-aggregator-audit", "product_like").await;
        let output = system.command(flags).await;
        let after = table_reads(&system, "like-aggregator-audit", "product_like").await;
        assert_eq!((after.0 - before.0, after.2 - before.2), (1, 0), "sequential scans and index scans of {flags:?}");
        let log = String::from_utf8_lossy(&output.stderr);
        let plan = log.split("Query Text: ").find(|plan| plan.contains("FULL JOIN")).unwrap_or_else(|| panic!("{log}"));
        for node in ["Hash Full Join", "HashAggregate", "Seq Scan on product_like "] {
            assert!(plan.contains(node), "{node}: {plan}");
        }
        assert!(!plan.contains("Sort") && !plan.contains("Index"), "{plan}");
    }
}

#[tokio::test]
async fn audit_without_tables_is_refused() {
    TestSystem::new().await.refused(&["audit"], &["product_like"]).await;
}

#[tokio::test]
async fn repair_blocks_no_worker() {
    let (_topic, system) = with_counts().await;
    system.database.execute(SPOIL).await;
    // A worker in the middle of its batch, which the repair doesn't wait for.
    let batch = system.database.lock("SELECT FROM kafka_offset FOR UPDATE").await;
    assert_eq!(audit(&system, &["--repair", "--yes"]).await.0, 1);
    assert_eq!(audit(&system, &[]).await.0, 0);
    batch.rollback().await.unwrap();
}
