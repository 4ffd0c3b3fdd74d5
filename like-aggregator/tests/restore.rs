//! The drill "restoring a backup", as docs/OPERATIONS.md has it: the tables go back to a moment in
//! mid-traffic, and are exact again without a command.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use like_testkit::{TestClient, TestSystem, eventually};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

const TABLES: [&str; 8] = [
    "product_like_count",
    "product_like",
    "event_handled",
    "kafka_offset",
    "topic_layout",
    "fold",
    "dead_letter",
    "log_gap",
];

/// What `pg_dump` would see: all tables at one moment.
async fn back_up(system: &TestSystem) {
    let copies = TABLES.map(|table| format!("CREATE TABLE backup.{table} AS SELECT * FROM likes.{table};")).concat();
    let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA backup; {copies} COMMIT");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&system.database.pool).await.unwrap();
}

/// All tables as they were then, and nobody keeps a connection.
async fn restore(system: &TestSystem) {
    let tables = TABLES.map(|table| format!("likes.{table}")).join(", ");
    let copies = TABLES.map(|table| format!("INSERT INTO likes.{table} SELECT * FROM backup.{table};")).concat();
    let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'test'";
    // In the order of a batch, or the two would deadlock.
    let lock = "LOCK TABLE likes.kafka_offset IN ACCESS EXCLUSIVE MODE";
    let sql = format!("BEGIN; {lock}; TRUNCATE {tables}; {copies} COMMIT; {disconnect}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&system.database.pool).await.unwrap();
}

/// A user's likes and unlikes until there are enough: what remains liked, and all receipts.
async fn click(
    client: TestClient,
    user: usize,
    enough: Arc<AtomicBool>,
    clicks: Arc<AtomicUsize>,
) -> (BTreeSet<(String, String)>, Vec<String>) {
    let mut dice = StdRng::seed_from_u64(user as u64);
    let user = format!("user-{user}");
    let (mut liked, mut receipts) = (BTreeSet::new(), Vec::new());
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let (product, wish) = (format!("p{}", dice.random_range(0..20)), dice.random());
        receipts.push(client.wish(&user, &product, wish, &n.to_string()).await.receipt);
        clicks.fetch_add(1, Ordering::Relaxed);
        if wish {
            liked.insert((product, user.clone()))
        } else {
            liked.remove(&(product, user.clone()))
        };
    }
    (liked, receipts)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_in_mid_traffic_is_exact_again_without_a_command() {
    let system = TestSystem::set_up(4).await;
    let api = system.api(&[]).await;
    let _aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let (enough, clicks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut users: JoinSet<_> =
        (0..10).map(|n| click(api.client(), n, Arc::clone(&enough), Arc::clone(&clicks))).collect();
    let more_clicks = async |more: usize| {
        let until = clicks.load(Ordering::Relaxed) + more;
        eventually("users click", async || (clicks.load(Ordering::Relaxed) >= until).then_some(())).await;
    };
    more_clicks(300).await;
    back_up(&system).await;
    more_clicks(300).await;
    restore(&system).await;
    more_clicks(300).await;
    enough.store(true, Ordering::Relaxed);
    let (mut expected, mut receipts) = (BTreeSet::new(), Vec::new());
    while let Some(user) = users.join_next().await {
        let (liked, of_user) = user.unwrap();
        expected.extend(liked);
        receipts.extend(of_user);
    }
    for receipt in &receipts {
        api.client().wait_until_counted(receipt).await;
    }
    let sql = "SELECT product_id, user_id FROM product_like WHERE liked";
    let likers: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap();
    assert_eq!(likers.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(system.wrong_counts().await, 0);
    let audit = system.command(&["audit", "--log"]).await;
    assert!(audit.status.success(), "{audit:?}");
}
