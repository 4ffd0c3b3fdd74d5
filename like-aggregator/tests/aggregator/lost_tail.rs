//! PostgreSQL has lost its last transactions, by a failover or since a backup was restored: offsets,
//! counts and history went back together. The aggregator goes on from there, also when no record
//! comes that would show it.

use std::time::Duration;

use crate::common::{Counting, QUICK, publish, set_up, users};
use like_aggregator::timing::Timing;
use like_testkit::TestSystem;

const NEVER: Duration = Duration::from_secs(3600);
const TABLES: [&str; 4] = ["product_like_count", "product_like", "event_handled", "kafka_offset"];

async fn execute(system: &TestSystem, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&system.database.pool).await.unwrap();
}

/// Folds three likes, keeps a copy of all tables, and folds two more.
async fn five_folded_and_a_backup_after_three(system: &TestSystem, topic: &like_testkit::TestTopic) {
    publish(topic, 0, users("first", 3));
    system.folded(3).await;
    execute(system, TABLES.map(|table| format!("CREATE TABLE backup_of_{table} AS TABLE {table};")).concat()).await;
    publish(topic, 0, users("second", 2));
    system.folded(5).await;
}

/// The last two likes were never folded.
async fn restore(system: &TestSystem) {
    let one = |table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM backup_of_{table};");
    execute(system, format!("BEGIN; {} COMMIT", TABLES.map(one).concat())).await;
}

async fn is_exact(system: &TestSystem, counting: &Counting) {
    system.folded(5).await;
    assert_eq!(system.number("SELECT like_count FROM product_like_count").await, 5);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 5);
    assert_eq!(counting.metric("likes_fences_total", "").await as u32, 0, "no record was needed to see it");
    assert!(counting.is_ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_is_noticed_within_the_interval_without_a_new_record() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, QUICK).await;
    five_folded_and_a_backup_after_three(&system, &topic).await;
    restore(&system).await;
    is_exact(&system, &counting).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_is_noticed_after_a_reconnect_without_a_new_record() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, Timing { compare_offsets: NEVER, ..QUICK }).await;
    five_folded_and_a_backup_after_three(&system, &topic).await;
    restore(&system).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'like-aggregator'";
    execute(&system, kill.to_owned()).await;
    is_exact(&system, &counting).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_while_counting_rewinds_nothing() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, Timing { compare_offsets: Duration::from_millis(1), ..QUICK }).await;
    for round in 0..50 {
        publish(&topic, round % 2, users(&format!("round-{round}"), 200));
    }
    system.folded(10_000).await;
    let events = |outcome| counting.metric("likes_events_total", outcome);
    assert_eq!((events("applied").await as u32, events("duplicate").await as u32), (10_000, 0));
    assert_eq!(counting.metric("likes_fences_total", "").await as u32, 0);
    counting.stop().await.unwrap();
}
