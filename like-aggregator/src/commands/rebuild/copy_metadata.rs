//! Copies to the rebuilt tables what isn't in the log: rights of roles, erased users, dates of dead letters, and which
//! dead letters were removed. `dependents` carries what others have added.

use anyhow::Context;
use like_common::database::SCHEMA;
use like_common::session::BEGIN;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::{info, warn};

use super::dependents;
use super::live::REBUILT;
use crate::fold::FOLD_VERSION;
use crate::schema::roles;
use crate::schema::shadow;

/// Runs while nothing is folded into the rebuilt tables.
pub(super) async fn copy(connection: &mut PgConnection) -> anyhow::Result<()> {
    let roles = roles::granted(connection, SCHEMA).await?;
    if !roles.is_empty() {
        roles::grant(connection, REBUILT, &roles).await?;
    }
    dependents::carry(connection).await?;
    // Rows that `erase-user` has deleted come back with the log, as unliked. An unliked row counts the same as no row, so
    // deleting it changes no count. Others among them are of users whose like and unlike were in one batch of the live
    // workers; the tables can't tell the two apart.
    let erase = format!(
        "DELETE FROM {REBUILT}.product_like own WHERE NOT liked
         AND NOT EXISTS (SELECT FROM {SCHEMA}.product_like live WHERE live.pair_key = own.pair_key)"
    );
    let unliked = run(connection, erase).await.context("unliked rows")?;
    info!(unliked, "unliked rows left out (erased users' among them): the live tables don't hold them");
    // By the same fold version, a dead letter that the live tables don't hold was redriven, dropped or expired. Another
    // version may have rejected it for the first time.
    if shadow::live_fold_version(connection).await? == FOLD_VERSION {
        copy_dead_letters(connection).await.context("dead letters")?;
    } else {
        // Dead letters are kept for 30 days from their first rejection.
        let date = format!(
            "UPDATE {REBUILT}.dead_letter own SET rejected_at = live.rejected_at FROM {SCHEMA}.dead_letter live
             WHERE (live.topic, live.partition, live.record_offset) = (own.topic, own.partition, own.record_offset)"
        );
        run(connection, date).await.context("dates of dead letters")?;
        let count = AssertSqlSafe(format!(
            "SELECT count(*) FROM {REBUILT}.dead_letter own WHERE NOT EXISTS (
                 SELECT FROM {SCHEMA}.dead_letter live
                 WHERE (live.topic, live.partition, live.record_offset) = (own.topic, own.partition, own.record_offset))"
        ));
        let again: i64 = sqlx::query_scalar(count).fetch_one(connection).await.context("dead letters")?;
        if again > 0 {
            warn!(again, "dead letters that the live tables don't hold: new ones, or ones removed before");
        }
    }
    Ok(())
}

/// Takes over the live dead letters and ranges of what is folded: which of them are kept whole depends on which were there
/// when they came.
async fn copy_dead_letters(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    for (table, offset) in [("dead_letter", "record_offset"), ("dead_letter_range", "bucket * 10000")] {
        run(&mut transaction, format!("DELETE FROM {REBUILT}.{table}")).await?;
        let copy = format!(
            "INSERT INTO {REBUILT}.{table} SELECT live.* FROM {SCHEMA}.{table} live
             JOIN {REBUILT}.kafka_offset folded USING (topic, partition) WHERE live.{offset} < folded.next_offset"
        );
        run(&mut transaction, copy).await?;
    }
    transaction.commit().await
}

async fn run(connection: &mut PgConnection, sql: String) -> sqlx::Result<u64> {
    Ok(sqlx::query(AssertSqlSafe(sql)).execute(connection).await?.rows_affected())
}
