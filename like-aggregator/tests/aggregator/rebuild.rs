//! `rebuild`: the log folded anew beside the live tables, and swapped in while everybody goes on.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use like_testkit::process::{TestProcess, command};
use like_testkit::{TestClient, TestSystem, event, eventually};
use tokio::task::JoinSet;

const PRODUCTS: usize = 10;

fn products() -> Vec<String> {
    (0..PRODUCTS).map(|n| format!("p{n}")).collect()
}

async fn rebuild(system: &TestSystem, args: &[&str]) -> Output {
    system.command(&[&["rebuild", "--yes"], args].concat()).await
}

async fn rebuilt(system: &TestSystem, args: &[&str]) -> Output {
    let output = rebuild(system, args).await;
    assert!(output.status.success(), "{output:?}");
    output
}

async fn refused(system: &TestSystem, why: &str) {
    let output = rebuild(system, &[]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(why), "{said}");
    assert_eq!(schemas(system).await, ["likes"], "nothing is left behind");
}

/// Our schemas.
async fn schemas(system: &TestSystem) -> Vec<String> {
    let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'likes%' ORDER BY 1";
    sqlx::query_scalar(sql).fetch_all(&system.database.pool).await.unwrap()
}

async fn likers(system: &TestSystem) -> Vec<(String, String)> {
    let sql = "SELECT product_id, user_id FROM product_like WHERE liked ORDER BY 1, 2";
    sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap()
}

async fn counts(system: &TestSystem) -> Vec<(String, i64, i64)> {
    let sql = "SELECT product_id, like_count, delta_count FROM product_like_count ORDER BY 1";
    sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap()
}

/// Asks for all counts again and again; each must be at least what it was before.
async fn watch(client: TestClient, enough: Arc<AtomicBool>) -> usize {
    let (products, mut seen, mut answers) = (products(), BTreeMap::new(), 0);
    while !enough.load(Ordering::Relaxed) {
        for (product, (count, _)) in products.iter().zip(client.likes("watcher", &products).await) {
            let before = seen.insert(product, count).unwrap_or(0);
            assert!(count >= before, "{product} had {before} likes and has {count}");
        }
        answers += 1;
    }
    answers
}

/// New users who like, one after the other, each click once more now and then; answers what there
/// should be, and asserts that what was counted once stays counted.
async fn click(client: TestClient, name: usize, enough: Arc<AtomicBool>) -> Vec<(String, String)> {
    let mut likes = Vec::new();
    let mut receipts = Vec::new();
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let (product, user) = (format!("p{}", n % PRODUCTS), format!("user-{name}-{n}"));
        let receipt = client.click(&user, &product, true, "once").await.receipt;
        if n % 3 == 0 {
            client.click(&user, &product, true, "once").await;
        }
        if n % 10 == 0 {
            client.wait_until_counted(&receipt).await;
            receipts.push(receipt);
        }
        likes.push((product, user));
    }
    for receipt in receipts {
        assert_eq!(client.receipt(&receipt).await["status"], "counted", "{receipt}");
    }
    likes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_count_goes_backwards_through_repeated_swaps_under_load_and_none_is_lost() {
    let system = TestSystem::set_up(8).await;
    let api = system.api(&[]).await;
    let _aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let enough = Arc::new(AtomicBool::new(false));
    let mut clicking: JoinSet<_> = (0..16).map(|n| click(api.client(), n, Arc::clone(&enough))).collect();
    let mut watching: JoinSet<_> = (0..3).map(|_| watch(api.client(), Arc::clone(&enough))).collect();

    for round in 0..5 {
        rebuilt(&system, if round % 2 == 0 { &[] } else { &["--drop-old"] }).await;
        assert!(watching.try_join_next().is_none(), "a watcher has ended");
    }
    enough.store(true, Ordering::Relaxed);
    let mut expected = Vec::new();
    while let Some(likes) = clicking.join_next().await {
        expected.extend(likes.unwrap());
    }
    while let Some(answers) = watching.join_next().await {
        assert!(answers.unwrap() > 100, "hardly anybody has looked");
    }
    expected.sort();
    eventually("all is counted", async || (likers(&system).await.len() >= expected.len()).then_some(())).await;
    assert_eq!(likers(&system).await, expected);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(schemas(&system).await.len(), 1 + 3, "the live one, and what was kept of the old ones");
}

#[tokio::test]
async fn a_rebuild_repairs_what_is_wrong_and_keeps_the_old_tables() {
    let (topic, system) = TestSystem::with_topic(3).await;
    for n in 0..500 {
        let user = format!("u{}", n % 100);
        topic.publish_event(&event(&format!("p{}", n % 7), Some(&user), n % 3 > 0));
        topic.publish_event(&event("deltas", None, n % 2 == 0 || n < 100));
        topic.publish(None, Some(b"p1"), Some(b"garbage"));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(1500).await;
    drop(aggregator);
    let (likers_before, counts_before) = (likers(&system).await, counts(&system).await);
    for damage in [
        "UPDATE product_like_count SET like_count = like_count + 3, delta_count = 1",
        "UPDATE product_like SET liked = NOT liked WHERE user_id < 'u5'",
        "DELETE FROM event_handled",
    ] {
        sqlx::query(damage).execute(&system.database.pool).await.unwrap();
    }

    let output = rebuilt(&system, &[]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((likers(&system).await, counts(&system).await), (likers_before, counts_before));
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 1000);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 500);
    assert_eq!(system.wrong_counts().await, 0);
    let schemas = schemas(&system).await;
    assert_eq!(schemas.len(), 2, "{schemas:?}");
    assert!(said.contains("1500 records folded") && said.contains(&schemas[1]), "{said}");

    // And it goes on from there.
    topic.publish_event(&event("p1", Some("new"), true));
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(1501).await;
}

#[tokio::test]
async fn what_was_put_away_is_not_brought_back() {
    let (topic, mut system) = TestSystem::with_topic(1).await;
    // A like and its unlike in one batch would leave no row.
    system.set("BATCH_MAX_EVENTS", "1");
    for user in ["erased", "other", "left"] {
        topic.publish_event(&event("p", Some(user), true));
    }
    for user in ["erased", "left"] {
        topic.publish_event(&event("p", Some(user), false));
    }
    topic.publish(None, Some(b"p"), Some(b"dropped"));
    topic.publish(None, Some(b"p"), Some(b"kept"));
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(7).await;
    // Not longer ago than dead letters are kept: maintenance would delete it.
    let rejected_at = (chrono::Utc::now() - chrono::TimeDelta::days(1)).format("%FT%TZ");
    for put_away in [
        "DELETE FROM product_like WHERE user_id = 'erased'".to_owned(),
        "DELETE FROM dead_letter WHERE payload = 'dropped'".to_owned(),
        format!("UPDATE dead_letter SET rejected_at = '{rejected_at}'"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(put_away)).execute(&system.database.pool).await.unwrap();
    }
    rebuilt(&system, &[]).await;
    let users: Vec<String> = sqlx::query_scalar("SELECT user_id FROM product_like ORDER BY 1")
        .fetch_all(&system.database.pool)
        .await
        .unwrap();
    assert_eq!(users, ["left", "other"]);
    let kept = sqlx::AssertSqlSafe(format!(
        "SELECT count(*) FROM dead_letter WHERE payload = 'kept' AND rejected_at = '{rejected_at}'"
    ));
    let kept: i64 = sqlx::query_scalar(kept).fetch_one(&system.database.pool).await.unwrap();
    assert_eq!(kept, 1);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 1);
}

#[tokio::test]
async fn a_rebuild_is_refused_where_the_result_would_be_worse() {
    let (topic, system) = TestSystem::with_topic(2).await;
    for n in 0..10 {
        topic.publish(Some(n % 2), Some(b"p"), Some(b"garbage"));
    }
    topic.flush();
    let not_asked = system.command(&["rebuild"]).await;
    assert_eq!(not_asked.status.code(), Some(2), "{not_asked:?}");
    assert!(String::from_utf8_lossy(&not_asked.stderr).contains("--yes"));

    let execute = async |sql: &'static str| {
        sqlx::query(sql).execute(&system.database.pool).await.unwrap();
    };
    execute("UPDATE fold SET fold_version = fold_version + 1").await;
    refused(&system, "use a newer build").await;
    execute("UPDATE fold SET fold_version = fold_version - 1").await;
    execute("INSERT INTO _sqlx_migrations SELECT 9999, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations LIMIT 1").await;
    refused(&system, "migration 9999").await;
    execute("DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    execute("INSERT INTO log_gap SELECT topic, partition, 0, 2, now() FROM kafka_offset LIMIT 1").await;
    refused(&system, "log_gap").await;
    execute("DELETE FROM log_gap").await;

    topic.cut(1, 2).await;
    refused(&system, "partition 1 of").await;
}

#[tokio::test]
async fn what_a_killed_rebuild_left_behind_is_dropped_and_two_do_not_meet() {
    let (topic, system) = TestSystem::with_topic(1).await;
    for n in 0..20_000 {
        topic.publish_event(&event("p", Some(&format!("u{n}")), true));
    }
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(20_000).await;
    let args = ["rebuild", "--yes"];
    let mut settings = system.settings();
    settings.push(("BATCH_MAX_EVENTS".to_owned(), "100".to_owned()));
    let mut victim = TestProcess::start("rebuild", command("like-aggregator", &args, &settings));
    eventually("it folds", async || {
        let rows = sqlx::query_scalar::<_, i64>("SELECT like_count FROM likes_rebuild.product_like_count");
        rows.fetch_optional(&system.database.pool).await.ok().flatten()
    })
    .await;
    victim.freeze();
    let second = rebuild(&system, &[]).await;
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"), "{second:?}");

    victim.kill();
    victim.ended().await;
    assert_eq!(schemas(&system).await, ["likes", "likes_rebuild"]);
    eventually("its connection is gone", async || {
        rebuild(&system, &["--drop-old"]).await.status.success().then_some(())
    })
    .await;
    assert_eq!(schemas(&system).await, ["likes"]);
    assert_eq!(system.number("SELECT like_count FROM product_like_count").await, 20_000);
}
