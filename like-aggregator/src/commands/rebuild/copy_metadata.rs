//! What the log can't say and the fresh tables should know: who may use them, and what an operator
//! has put away since.

use anyhow::Context;
use like_common::database::SCHEMA;
use sqlx::{AssertSqlSafe, PgConnection};
use tracing::{info, warn};

use super::live::REBUILT;
use crate::fold::FOLD_VERSION;
use crate::schema::roles;
use crate::schema::shadow;

/// Run while nothing is being folded into the fresh tables.
pub(super) async fn copy(connection: &mut PgConnection) -> anyhow::Result<()> {
    let roles = roles::granted(connection, SCHEMA).await?;
    if !roles.is_empty() {
        roles::grant(connection, REBUILT, &roles).await?;
    }
    // Rows that `erase-user` has deleted come back with the log, as likes taken back. Without its
    // row a user likes nothing either, so this changes no count, even where a row is just missing.
    let erased = run(
        connection,
        format!(
            "DELETE FROM {REBUILT}.product_like own WHERE NOT liked
             AND NOT EXISTS (SELECT FROM {SCHEMA}.product_like live WHERE live.pair_key = own.pair_key)"
        ),
    )
    .await
    .context("rows of erased users")?;
    // They are kept for a time that began when they were found first.
    run(
        connection,
        format!(
            "UPDATE {REBUILT}.dead_letter own SET rejected_at = live.rejected_at FROM {SCHEMA}.dead_letter live
             WHERE (live.topic, live.partition, live.record_offset) = (own.topic, own.partition, own.record_offset)"
        ),
    )
    .await
    .context("dates of dead letters")?;
    let put_away = format!(
        "FROM {REBUILT}.dead_letter own WHERE NOT EXISTS (
             SELECT FROM {SCHEMA}.dead_letter live
             WHERE (live.topic, live.partition, live.record_offset) = (own.topic, own.partition, own.record_offset))"
    );
    // By the same rules: what the live tables don't hold was redriven, dropped or expired. Other
    // rules may have found these for the first time.
    if shadow::live_fold_version(connection).await? == FOLD_VERSION {
        let dropped = run(connection, format!("DELETE {put_away}")).await.context("dead letters")?;
        info!(erased, dropped, "left out what was put away: rows of erased users, dead letters");
    } else {
        let count = AssertSqlSafe(format!("SELECT count(*) {put_away}"));
        let again: i64 = sqlx::query_scalar(count).fetch_one(connection).await.context("dead letters")?;
        if again > 0 {
            warn!(again, "dead letters that the live tables don't hold: new, or dropped or redriven before");
        }
    }
    Ok(())
}

async fn run(connection: &mut PgConnection, sql: String) -> sqlx::Result<u64> {
    Ok(sqlx::query(AssertSqlSafe(sql)).execute(connection).await?.rows_affected())
}
