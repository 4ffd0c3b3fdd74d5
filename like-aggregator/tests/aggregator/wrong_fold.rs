//! The drill "replay after a consumer bug" of docs/OPERATIONS.md: the tables hold likes that the log
//! doesn't; `audit --log` finds them and `rebuild` repairs them while clients read and like.
//!
//! SQL stands in for the wrong build: it seeds the likes, and sets the fold version of the tables
//! to that of a newer or an older build.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::{drill, watch};
use like_testkit::{TestClient, TestSystem, until};
use serde_json::Value;
use tokio::task::JoinSet;

const PRODUCTS: usize = 4;

/// Likes that the log holds for no product of `wrong()`, written as a wrong fold would: likers, counts
/// and hours agree. No batch is in progress meanwhile.
const WRONG_LIKES: &str = "BEGIN;
    LOCK TABLE kafka_offset IN EXCLUSIVE MODE;
    INSERT INTO product_like
        SELECT encode(substr(sha256(p), 1, 4) || substr(sha256(p || u), 1, 12), 'hex')::uuid, now(), true, product, person
        FROM (SELECT 'wrong-' || n AS product, 'ghost-' || m AS person
              FROM generate_series(0, 3) n, generate_series(1, 10) m) pairs,
             LATERAL (SELECT int4send(octet_length(product)) || product::bytea AS p,
                             int4send(octet_length(person)) || person::bytea AS u) bytes;
    INSERT INTO product_like_count SELECT 'wrong-' || p, 10, 0, now() FROM generate_series(0, 3) p
        ON CONFLICT (product_id) DO UPDATE SET like_count = product_like_count.like_count + 10;
    INSERT INTO product_like_hour SELECT date_trunc('hour', now()), 'wrong-' || p, 10 FROM generate_series(0, 3) p
        ON CONFLICT (hour, product_id) DO UPDATE SET likes = product_like_hour.likes + 10;
    COMMIT";

/// Products whose likes stay: the wrong fold doesn't touch them.
fn right() -> Vec<String> {
    (0..PRODUCTS).map(|n| format!("right-{n}")).collect()
}

fn wrong() -> Vec<String> {
    (0..PRODUCTS).map(|n| format!("wrong-{n}")).collect()
}

/// New users, one after the other: each likes a product of `right()`, likes one of `wrong()` and takes
/// that back. Returns what remains liked, and the last receipt.
async fn click(
    client: TestClient,
    name: usize,
    enough: Arc<AtomicBool>,
    clicks: Arc<AtomicUsize>,
) -> (BTreeSet<(String, String)>, String) {
    let (mut liked, mut receipt) = (BTreeSet::new(), String::new());
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let (user, right, wrong) = (format!("user-{name}-{n}"), &right()[n % PRODUCTS], &wrong()[n % PRODUCTS]);
        client.click(&user, right, true, "1").await;
        client.click(&user, wrong, true, "2").await;
        receipt = client.click(&user, wrong, false, "3").await.receipt;
        liked.insert((right.clone(), user));
        clicks.fetch_add(1, Ordering::Relaxed);
    }
    (liked, receipt)
}

async fn likers(system: &TestSystem) -> BTreeSet<(String, String)> {
    let sql = "SELECT product_id, user_id FROM product_like WHERE liked";
    system.database.rows(sql).await.into_iter().collect()
}

/// Runs `audit --log`, which must name exactly the products of `wrong()`; returns the fold versions
/// of the tables and of the build.
async fn audit_names_the_wrong(system: &TestSystem, audit_log: &[String]) -> (Value, Value) {
    let audit_log: Vec<_> = audit_log.iter().map(String::as_str).collect();
    let (status, report) = system.json(&audit_log).await;
    assert_eq!(status, 1, "{report}");
    let differences = report["products"]["differences"].as_array().unwrap();
    let differing: BTreeSet<_> = differences.iter().map(|p| p["productId"].as_str().unwrap()).collect();
    assert_eq!(differing, wrong().iter().map(String::as_str).collect(), "these and no others");
    assert_eq!(report["products"]["differing"], PRODUCTS);
    (report["foldVersion"].clone(), report["buildFoldVersion"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fold_is_found_and_repaired() {
    let system = TestSystem::set_up(4).await;
    let mut old = system.aggregator(&[]).await;
    let api = system.api(&[]).await;
    let (enough, clicks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut users: JoinSet<_> =
        (0..8).map(|n| click(api.client(), n, Arc::clone(&enough), Arc::clone(&clicks))).collect();
    let watcher = tokio::spawn(watch(api.client(), right(), Arc::clone(&enough)));
    let more_clicks = async |more: usize| {
        let expected = clicks.load(Ordering::Relaxed) + more;
        until("users click", async || clicks.load(Ordering::Relaxed) >= expected).await;
    };
    more_clicks(100).await;
    system.database.execute(WRONG_LIKES).await;

    let commands = drill::commands("## Drill: replay after a consumer bug", &[]);
    let [audit_log, rebuild, audit_again] = &commands[..] else { panic!("{commands:?}") };

    // Counts and likes agree with each other, but not with the log.
    system.succeeds(&["audit"]).await;
    audit_names_the_wrong(&system, audit_log).await;
    assert_eq!(old.process.status(), None, "the audit leaves a running aggregator alone");

    // A newer build has replaced the tables: the older one ends, and can't take them back.
    system.database.execute("UPDATE fold SET fold_version = fold_version + 1").await;
    assert_eq!(old.process.ended().await.code(), Some(1));
    let log = old.process.log();
    assert!(log.contains("fold version 3 and this build folds by 2"), "{log}");
    system.refused(&["rebuild", "--yes"], &["use a newer build"]).await;

    // The tables are of an older build: this one finds what is wrong and repairs it.
    system.database.execute("UPDATE fold SET fold_version = 0").await;
    assert_eq!(audit_names_the_wrong(&system, audit_log).await, (Value::from(0), Value::from(2)));
    let rebuilt = system.succeeds(rebuild).await;

    more_clicks(100).await; // no aggregator runs: these wait in the log
    let _new = system.aggregator(&[]).await;
    more_clicks(100).await;
    enough.store(true, Ordering::Relaxed);
    let mut expected = BTreeSet::new();
    while let Some(user) = users.join_next().await {
        let (liked, receipt) = user.unwrap();
        api.client().wait_until_counted(&receipt).await;
        expected.extend(liked);
    }
    let (_, seen) = watcher.await.unwrap();
    assert!(seen.len() == PRODUCTS && seen.iter().all(|count| *count > 0), "no count was read: {seen:?}");
    until("all likes are counted", async || likers(&system).await.len() >= expected.len()).await;
    assert_eq!(likers(&system).await, expected);
    for (product, (count, _)) in wrong().iter().zip(api.client().likes("any", &wrong()).await) {
        assert_eq!(count, 0, "{product}");
    }
    assert_eq!(system.wrong_counts().await, 0);
    system.succeeds(audit_again).await;

    let (_, drop_old) = rebuilt.split_once("once they aren't needed, ").unwrap_or_else(|| panic!("{rebuilt}"));
    let drop_old = drop_old.lines().next().unwrap().to_owned();
    assert!(drop_old.starts_with("DROP SCHEMA likes_old_"), "{drop_old}");
    system.database.execute(drop_old).await;
    system.succeeds(audit_again).await;
}
