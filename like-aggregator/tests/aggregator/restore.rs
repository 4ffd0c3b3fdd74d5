//! The drill "restoring a backup", as docs/OPERATIONS.md has it: the tables go back to a moment in
//! mid-traffic, and are exact again without a command.

use crate::common::{drill, passing_crowd};
use like_common::database::sqlstate;
use like_testkit::{TestSystem, eventually};

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
    sqlx::query("DROP SCHEMA IF EXISTS backup CASCADE").execute(&system.database.pool).await.unwrap();
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
    let mut connection = system.database.pool.acquire().await.unwrap();
    // Those who look for the topic's turn lock the other way round: of a deadlock we may be the victim.
    while let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut *connection).await {
        assert_eq!(sqlstate(&error).as_deref(), Some("40P01"), "{error}");
        sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_taken_in_mid_traffic_is_exact_again_without_a_command() {
    let system = TestSystem::set_up(4).await;
    let api = system.api(&[]).await;
    let mut aggregators = vec![system.aggregator(&[]).await, system.aggregator(&[]).await];
    let crowd = passing_crowd(10, &[api.client()]);
    // Under the running aggregators, as when a server is put back to an earlier time; and with all
    // of them stopped, as for a restore that makes the tables anew.
    for stopped in [false, true] {
        let folded = "SELECT sum(next_offset)::bigint FROM kafka_offset";
        let before = system.number(folded).await;
        crowd.clicks(200).await;
        eventually("some are counted", async || (system.number(folded).await > before).then_some(())).await;
        back_up(&system).await;
        crowd.clicks(200).await;
        let went_on = "SELECT sum(own.next_offset - backup.next_offset)::bigint
                       FROM likes.kafka_offset own JOIN backup.kafka_offset backup USING (topic, partition)";
        eventually("more is counted than is in the backup", async || (system.number(went_on).await > 0).then_some(()))
            .await;
        if stopped {
            aggregators.clear();
        }
        restore(&system).await;
        if stopped {
            aggregators.push(system.aggregator(&[]).await);
        }
        crowd.clicks(200).await;
    }
    crowd.finish().await.is_counted(&system, &api.client()).await;
    let commands = drill::commands("## Drill: restoring a backup", &[]);
    assert_eq!(commands, [["audit", "--log"]]);
    let audit = system.command(&["audit", "--log"]).await;
    assert!(audit.status.success(), "{audit:?}");
}
