//! Whether the shadow schema of a rebuild that was stopped is what this one would have filled, so that it can continue.

use anyhow::Context;
use like_common::database::SCHEMA;
use like_common::migrations::migrator;
use rdkafka::ClientConfig;
use sqlx::{AssertSqlSafe, PgConnection};
use tracing::info;

use super::live::{REBUILT, check_fold_rules};
use crate::fold::FOLD_VERSION;
use crate::topic::log_ends;

/// Compares tables, fold settings, layout, and the last folded record of each partition with the log.
pub(super) async fn is_valid(connection: &mut PgConnection, client: &ClientConfig) -> anyhow::Result<bool> {
    let kept =
        has_tables(connection).await? && follows_live(connection).await? && follows_log(connection, client).await?;
    info!(kept, "schema {REBUILT} of a rebuild that was stopped");
    Ok(kept)
}

/// The fold's row is written after the last migration.
async fn has_tables(connection: &mut PgConnection) -> anyhow::Result<bool> {
    let made = format!("SELECT to_regclass('{REBUILT}.fold') IS NOT NULL");
    if !sqlx::query_scalar::<_, bool>(AssertSqlSafe(made)).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let applied = format!("SELECT version, checksum FROM {REBUILT}._sqlx_migrations WHERE success ORDER BY version");
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(applied)).fetch_all(&mut *connection).await?;
    let own: Vec<_> = migrator().iter().map(|one| (one.version, one.checksum.to_vec())).collect();
    let version = format!("SELECT fold_version FROM {REBUILT}.fold");
    let version: Option<i32> = sqlx::query_scalar(AssertSqlSafe(version)).fetch_optional(connection).await?;
    Ok(applied == own && version == Some(FOLD_VERSION))
}

async fn follows_live(connection: &mut PgConnection) -> anyhow::Result<bool> {
    let other = format!(
        "SELECT EXISTS (SELECT sequence, topic, partitions FROM {REBUILT}.topic_layout
                        EXCEPT SELECT sequence, topic, partitions FROM {SCHEMA}.topic_layout)"
    );
    let other: bool = sqlx::query_scalar(AssertSqlSafe(other)).fetch_one(&mut *connection).await?;
    Ok(!other && check_fold_rules(connection).await.is_ok())
}

/// A topic that was created again has other records at these offsets.
async fn follows_log(connection: &mut PgConnection, client: &ClientConfig) -> anyhow::Result<bool> {
    let last = format!(
        "SELECT topic, partition, next_offset - 1, (extract(epoch FROM last_record_time) * 1000)::bigint
         FROM {REBUILT}.kafka_offset WHERE next_offset > 0 ORDER BY topic, partition"
    );
    let last: Vec<(String, i32, i64, Option<i64>)> = sqlx::query_as(AssertSqlSafe(last)).fetch_all(connection).await?;
    for of_topic in last.chunk_by(|one, other| one.0 == other.0) {
        let offsets = of_topic.iter().map(|(_, partition, offset, _)| (*partition, *offset)).collect();
        // An unreachable broker is no reason to fold all again.
        log_ends::of(client, &of_topic[0].0, of_topic.len() as i32).await.context("Kafka")?;
        let found = log_ends::records_at(client, &of_topic[0].0, offsets).await?;
        let same = |(_, partition, offset, time): &(String, i32, i64, Option<i64>)| {
            time.is_some_and(|time| found.get(partition) == Some(&(*offset, time)))
        };
        if !of_topic.iter().all(same) {
            return Ok(false);
        }
    }
    Ok(!last.is_empty())
}
