//! PostgreSQL has lost its last transactions, by a failover or a restored backup: offsets, counts and
//! history went back together. The aggregator continues from there, also without a new record.

use std::time::Duration;

use crate::common::{Counting, NEVER, QUICK, publish, set_up, users};
use like_aggregator::timing::Timing;
use like_testkit::{TestSystem, TestTopic};

const TABLES: [&str; 5] = ["product_like_count", "product_like_hour", "product_like", "event_handled", "kafka_offset"];

/// Folds three likes, keeps a copy of all tables, and folds two more.
async fn five_folded_and_a_backup_after_three(system: &TestSystem, topic: &TestTopic) {
    publish(topic, 0, users("first", 3));
    system.folded(3).await;
    system
        .database
        .execute(TABLES.map(|table| format!("CREATE TABLE backup_of_{table} AS TABLE {table};")).concat())
        .await;
    publish(topic, 0, users("second", 2));
    system.folded(5).await;
}

/// Restores the copy: the last two likes are not folded.
async fn restore(system: &TestSystem) {
    let one = |table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM backup_of_{table};");
    system.database.execute(format!("BEGIN; {} COMMIT", TABLES.map(one).concat())).await;
}

async fn is_exact(system: &TestSystem, counting: &Counting) {
    system.folded(5).await;
    assert_eq!(system.number("SELECT like_count FROM product_like_count").await, 5);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 5);
    assert_eq!(counting.metric("likes_fences_total", "").await as u32, 0, "noticed without a record");
    assert!(counting.is_ready().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_tail_is_noticed_in_time() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, QUICK).await;
    five_folded_and_a_backup_after_three(&system, &topic).await;
    restore(&system).await;
    is_exact(&system, &counting).await;
    counting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_tail_is_noticed_on_reconnect() {
    let (topic, system) = set_up(2).await;
    let counting = Counting::ready(&system, Timing { compare_offsets: NEVER, ..QUICK }).await;
    five_folded_and_a_backup_after_three(&system, &topic).await;
    restore(&system).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'like-aggregator'";
    system.database.execute(kill).await;
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
