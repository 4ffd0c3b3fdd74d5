//! The swap: one transaction that blocks the live workers, has the shadow tables folded up to the live offsets, and
//! renames the schemas. Readers never wait.
//!
//! Row locks are not enough: a worker that waits for a row of the old `kafka_offset` passes its check on that row after
//! the rename, and writes its counts into the new tables. A worker that waits for the table resolves the name again and
//! finds the new table.

use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use like_common::database::{self, SCHEMA};
use like_common::session::BEGIN;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::timeout;
use tracing::info;

use super::dependents;
use super::live::{REBUILT, check_fold_rules, check_live};
use crate::replay::Replay;
use crate::schema::shadow::{self, ShadowSchema};
use crate::schema::user_likes::{self, UserLikes};

/// How long the live workers may be blocked: well below their own lock timeout.
const HOLD: Duration = Duration::from_secs(5);

/// Workers queue behind a pending table lock, so its wait is short; and a process stopped in this transaction must not
/// block them for ever.
const TIMEOUTS: &str = "SET LOCAL lock_timeout = '2s'; SET LOCAL idle_in_transaction_session_timeout = '8s'";

/// Tries the swap once. Returns the old schema's new name, or None when too much was left to fold or a lock was not
/// granted in time.
pub(super) async fn attempt(replay: &Replay, shadow_schema: &mut ShadowSchema) -> anyhow::Result<Option<String>> {
    let mut swap = shadow_schema.connection().await?.begin_with(BEGIN).await?;
    let renamed = match try_it(replay, &mut swap).await {
        Ok(Some(old)) => {
            let unknown = || format!("the answer to the swap was lost: it is committed if there is a schema {old}");
            swap.commit().await.map_err(|error| anyhow::Error::msg(error).context(unknown()))?;
            return Ok(Some(old));
        }
        not_renamed => not_renamed,
    };
    // At once: the workers wait for the lock, and dropping the transaction sends nothing before its connection's next use.
    // If that fails, the connection is lost, and the lock with it.
    let _ = swap.rollback().await;
    match renamed {
        Err(error) if error.downcast_ref::<sqlx::Error>().is_some_and(database::is_transient) => {
            info!("not swapped yet: {error:#}");
            Ok(None)
        }
        other => other,
    }
}

/// Returns the old schema's new name, to be committed; None: not now.
async fn try_it(replay: &Replay, swap: &mut PgConnection) -> anyhow::Result<Option<String>> {
    sqlx::raw_sql(TIMEOUTS).execute(&mut *swap).await?;
    // The live tables first: their offsets are final from here on. A change of topic_layout locks kafka_offset before it.
    lock(swap, SCHEMA).await?;
    let changed = format!(
        "SELECT EXISTS (SELECT sequence, topic, partitions, state, end_offsets, republished_to FROM {SCHEMA}.topic_layout
                        EXCEPT SELECT sequence, topic, partitions, state, end_offsets, republished_to
                               FROM {REBUILT}.topic_layout)"
    );
    if sqlx::query_scalar(AssertSqlSafe(changed)).fetch_one(&mut *swap).await? {
        return Ok(None);
    }
    let ends = shadow::live_ends(swap).await?;
    let Ok(folded) = timeout(HOLD, replay.fold(&ends)).await else {
        info!("not swapped yet: what was left took too long");
        return Ok(None);
    };
    folded?;
    // No batch is in flight here; this waits for a transaction whose connection was lost.
    lock(swap, REBUILT).await?;
    let behind = format!(
        "SELECT EXISTS (SELECT FROM {SCHEMA}.kafka_offset live
                        LEFT JOIN {REBUILT}.kafka_offset own USING (topic, partition)
                        WHERE own.next_offset IS NULL OR own.next_offset < live.next_offset)"
    );
    if sqlx::query_scalar(AssertSqlSafe(behind)).fetch_one(&mut *swap).await? {
        info!("not swapped yet: the shadow tables have lost their last batches, as after a failover");
        return Ok(None);
    }
    let live = user_likes::read(swap, SCHEMA).await? == UserLikes::On;
    if live != (user_likes::read(swap, REBUILT).await? == UserLikes::On) {
        info!("not swapped yet: `setup --user-likes` has changed the live tables");
        return Ok(None);
    }
    // Another rebuild may have swapped in a newer fold version meanwhile.
    check_live(swap).await?;
    check_fold_rules(swap).await?;
    let ids =
        format!("UPDATE {REBUILT}.fold SET time_ordered_ids_from = live.time_ordered_ids_from FROM {SCHEMA}.fold live");
    sqlx::query(AssertSqlSafe(ids)).execute(&mut *swap).await.context("fold")?;
    let old = format!("{SCHEMA}_old_{}", Utc::now().format("%Y%m%d_%H%M%S_%3f"));
    for rename in
        [format!("ALTER SCHEMA {SCHEMA} RENAME TO {old}"), format!("ALTER SCHEMA {REBUILT} RENAME TO {SCHEMA}")]
    {
        sqlx::query(AssertSqlSafe(rename)).execute(&mut *swap).await.context("renaming")?;
    }
    dependents::publish(swap, &old).await?;
    Ok(Some(old))
}

async fn lock(swap: &mut PgConnection, schema: &str) -> sqlx::Result<()> {
    let lock = format!("LOCK TABLE {schema}.kafka_offset IN EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(lock)).execute(swap).await.map(drop)
}
