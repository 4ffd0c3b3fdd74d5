//! The drill "replay after a consumer bug", as docs/OPERATIONS.md has it: a build whose fold is
//! wrong counts for a while; the log tells, and the log repairs it, while everybody goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::common::drill;
use like_testkit::process::WITH_WRONG_FOLD;
use like_testkit::{TestClient, TestSystem, eventually};
use serde_json::Value;
use tokio::task::JoinSet;

const PRODUCTS: usize = 4;

/// What the bug doesn't touch: nobody takes these likes back.
fn right() -> Vec<String> {
    (0..PRODUCTS).map(|n| format!("right-{n}")).collect()
}

fn wrong() -> Vec<String> {
    (0..PRODUCTS).map(|n| format!("wrong-{n}")).collect()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn succeeds(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

/// New users, one after the other: each likes a product that is counted rightly, and likes another
/// and takes that back. Answers what remains liked, and the last receipts.
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
        client.wish(&user, right, true, "1").await;
        client.wish(&user, wrong, true, "2").await;
        receipt = client.wish(&user, wrong, false, "3").await.receipt;
        liked.insert((right.clone(), user));
        clicks.fetch_add(1, Ordering::Relaxed);
    }
    (liked, receipt)
}

/// Asks again and again for counts that the bug doesn't touch; none may go backwards. Answers the
/// last ones.
async fn watch(client: TestClient, enough: Arc<AtomicBool>) -> Vec<i64> {
    let (products, mut seen) = (right(), BTreeMap::new());
    while !enough.load(Ordering::Relaxed) {
        for (product, (count, _)) in products.iter().zip(client.likes("watcher", &products).await) {
            let before = seen.insert(product, count).unwrap_or(0);
            assert!(count >= before, "{product} had {before} likes and has {count}");
        }
    }
    seen.into_values().collect()
}

async fn likers(system: &TestSystem) -> BTreeSet<(String, String)> {
    let sql = "SELECT product_id, user_id FROM product_like WHERE liked";
    sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_fold_is_found_and_repaired_while_likes_go_on() {
    let system = TestSystem::new().await;
    succeeds(system.command_of(WITH_WRONG_FOLD, &["setup", "--partitions", "4"]).await);
    let mut wrong_one = system.start_wrong_aggregator();
    wrong_one.wait_until_ready().await;
    let api = system.api(&[]).await;
    let (enough, clicks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut users: JoinSet<_> =
        (0..8).map(|n| click(api.client(), n, Arc::clone(&enough), Arc::clone(&clicks))).collect();
    let mut watcher = tokio::spawn(watch(api.client(), Arc::clone(&enough)));
    let more_clicks = async |more: usize| {
        let until = clicks.load(Ordering::Relaxed) + more;
        eventually("users click", async || (clicks.load(Ordering::Relaxed) >= until).then_some(())).await;
    };
    more_clicks(100).await;

    let commands = drill::commands("## Drill: replay after a consumer bug", &[]);
    let commands: Vec<Vec<_>> = commands.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
    let [audit_log, rebuild, audit_again] = &commands[..] else { panic!("{commands:?}") };

    // Counts and likes agree with each other, and not with the log.
    succeeds(system.command(&["audit"]).await);
    let audit = system.command(&[audit_log, &["--json"][..]].concat()).await;
    assert_eq!(audit.status.code(), Some(1), "{audit:?}");
    let report: Value = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!((&report["foldVersion"], &report["buildFoldVersion"]), (&Value::from(0), &Value::from(1)));
    let differing: BTreeSet<_> = report["products"]["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["productId"].as_str().unwrap())
        .collect();
    assert_eq!(differing, wrong().iter().map(String::as_str).collect(), "these and no others");
    assert_eq!(report["products"]["differing"], PRODUCTS);

    // The right build repairs it. The wrong one goes on until then, and no longer.
    assert_eq!(wrong_one.process.status(), None);
    let rebuilt = said(&succeeds(system.command(rebuild).await));
    assert_eq!(wrong_one.process.ended().await.code(), Some(1));
    let last_words = wrong_one.process.log();
    assert!(last_words.contains("fold version 1 and this build folds by 0"), "{last_words}");
    let refused = system.command_of(WITH_WRONG_FOLD, &["rebuild", "--yes"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(said(&refused).contains("use a newer build"), "{refused:?}");

    more_clicks(100).await; // nobody counts them yet
    let _right_one = system.aggregator(&[]).await;
    more_clicks(100).await;
    enough.store(true, Ordering::Relaxed);
    let mut expected = BTreeSet::new();
    while let Some(user) = users.join_next().await {
        let (liked, receipt) = user.unwrap();
        api.client().wait_until_counted(&receipt).await;
        expected.extend(liked);
    }
    let seen = (&mut watcher).await.unwrap();
    assert!(seen.len() == PRODUCTS && seen.iter().all(|count| *count > 0), "nobody has watched: {seen:?}");
    eventually("all is counted", async || (likers(&system).await.len() >= expected.len()).then_some(())).await;
    assert_eq!(likers(&system).await, expected);
    for (product, (count, _)) in wrong().iter().zip(api.client().likes("anybody", &wrong()).await) {
        assert_eq!(count, 0, "{product}");
    }
    assert_eq!(system.wrong_counts().await, 0);
    succeeds(system.command(audit_again).await);

    let (_, drop_old) = rebuilt.split_once("once they aren't needed, ").unwrap_or_else(|| panic!("{rebuilt}"));
    let drop_old = drop_old.lines().next().unwrap().to_owned();
    assert!(drop_old.starts_with("DROP SCHEMA likes_old_"), "{drop_old}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(drop_old)).execute(&system.database.pool).await.unwrap();
    succeeds(system.command(audit_again).await);
}
