//! The drill "restoring a backup" of docs/OPERATIONS.md: the tables return to an earlier state under load,
//! and are exact again without a command.

use crate::common::{drill, passing_crowd};
use like_common::database::sqlstate;
use like_testkit::{TestSystem, until};

const TABLES: [&str; 10] = [
    "product_like_count",
    "product_like",
    "product_like_hour",
    "event_handled",
    "kafka_offset",
    "topic_layout",
    "fold",
    "dead_letter",
    "dead_letter_range",
    "log_gap",
];

/// Copies all tables in one snapshot, like `pg_dump`.
async fn back_up(system: &TestSystem) {
    let copies = TABLES.map(|table| format!("CREATE TABLE backup.{table} AS SELECT * FROM likes.{table};")).concat();
    // A generated column can't be inserted; `pg_dump` leaves it out.
    let generated = "ALTER TABLE backup.topic_layout DROP COLUMN state;";
    let sql = format!("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE SCHEMA backup; {copies} {generated} COMMIT");
    system.database.execute("DROP SCHEMA IF EXISTS backup CASCADE").await;
    system.database.execute(sql).await;
}

/// Restores all tables and ends all connections of the services.
async fn restore(system: &TestSystem) {
    let tables = TABLES.map(|table| format!("likes.{table}")).join(", ");
    let copy = |table| match table {
        "topic_layout" => "(sequence, topic, partitions, end_offsets, closing, republished_to, held)",
        _ => "",
    };
    let copies = TABLES.map(|table| format!("INSERT INTO likes.{table} {} SELECT * FROM backup.{table};", copy(table)));
    let copies = copies.concat();
    let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'test'";
    // In the order of a batch, to avoid deadlocks.
    let lock = "LOCK TABLE likes.kafka_offset IN ACCESS EXCLUSIVE MODE";
    let sql = format!("BEGIN; {lock}; TRUNCATE {tables}; {copies} COMMIT; {disconnect}");
    let mut connection = system.database.pool.acquire().await.unwrap();
    // A worker that looks up the active topic locks in the other order: this may be the victim of a deadlock.
    while let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone())).execute(&mut *connection).await {
        assert_eq!(sqlstate(&error).as_deref(), Some("40P01"), "{error}");
        sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_backup_becomes_exact() {
    let system = TestSystem::set_up(4).await;
    let api = system.api(&[]).await;
    let mut aggregators = vec![system.aggregator(&[]).await, system.aggregator(&[]).await];
    let crowd = passing_crowd(10, &[api.client()]);
    // While aggregators run, as when a server returns to an earlier time; and without aggregators, as for a
    // restore that creates the tables again.
    for stopped in [false, true] {
        let folded = "SELECT sum(next_offset)::bigint FROM kafka_offset";
        let before = system.number(folded).await;
        crowd.clicks(200).await;
        until("some are counted", async || system.number(folded).await > before).await;
        back_up(&system).await;
        crowd.clicks(200).await;
        let since_backup = "SELECT sum(own.next_offset - backup.next_offset)::bigint
                       FROM likes.kafka_offset own JOIN backup.kafka_offset backup USING (topic, partition)";
        until("more is counted than is in the backup", async || system.number(since_backup).await > 0).await;
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
    system.succeeds(&commands[0]).await;
}
