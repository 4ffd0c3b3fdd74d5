//! What commands that touch the tables beside running aggregators have in common: connecting, and
//! keeping the workers out for a moment.

use anyhow::{Context, bail};
use like_common::database::{DatabaseSettings, SCHEMA, sqlstate};
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::fold::FOLD_VERSION;

/// Connects for the command `name`. Long waits for a lock are the workers' likes waiting: refused
/// by the server after ten seconds.
pub async fn connect(settings: &DatabaseSettings, name: &str) -> anyhow::Result<PgConnection> {
    let options = settings.database_url.connect_options(SCHEMA, &format!("like-aggregator-{name}")).options([
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "10s"),
        // Keys are what rows are found by here, too: see the store's connection.
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("max_parallel_workers_per_gather", "0"),
        ("jit", "off"),
    ]);
    PgConnection::connect_with(&options).await.context("PostgreSQL")
}

/// Begins a transaction that no worker's can overlap: each stands between two batches until it
/// ends, so it has to be short. The table is locked and not its rows, because `rebuild` may put
/// another table in its place while we wait; this lock is then one of the new table.
/// What is read in it has to be read by later statements, which see what was committed before.
pub async fn between_batches(connection: &mut PgConnection) -> anyhow::Result<Transaction<'_, Postgres>> {
    let mut transaction = connection.begin().await?;
    let locked = sqlx::query("LOCK TABLE kafka_offset IN EXCLUSIVE MODE").execute(&mut *transaction).await;
    if let Err(error) = locked {
        let busy = sqlstate(&error).as_deref() == Some("55P03");
        let hint = if busy { "kafka_offset stayed locked for 10 s: try again" } else { "locking kafka_offset" };
        return Err(error).context(hint);
    }
    let found: Option<i32> =
        sqlx::query_scalar("SELECT fold_version FROM fold").fetch_optional(&mut *transaction).await?;
    if found != Some(FOLD_VERSION) {
        let found = found.map_or_else(|| "none".to_owned(), |version| version.to_string());
        bail!(
            "the database holds fold version {found} and this build folds by {FOLD_VERSION}: use a build of that version"
        );
    }
    Ok(transaction)
}
