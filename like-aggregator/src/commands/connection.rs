//! Connections of commands that use the tables beside running aggregators, and transactions that block the workers.

use anyhow::{Context, bail};
use like_common::database::{DatabaseSettings, SCHEMA, sqlstate};
use like_common::layout::{self, Layout};
use like_common::session::BEGIN;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::fold::FOLD_VERSION;

/// No batch is applied while a transaction holds this, and each later one sees what it has changed.
pub const LOCK_BATCHES: &str = "LOCK TABLE kafka_offset IN EXCLUSIVE MODE";

/// Connects for the command `name`. Workers wait behind a command that waits for a lock, so the server ends that wait
/// after ten seconds.
pub async fn connect(settings: &DatabaseSettings, name: &str) -> anyhow::Result<PgConnection> {
    let session = settings.database_url.session(SCHEMA, &format!("like-aggregator-{name}")).with([
        // Every statement finds its rows by key: see `Store::new`.
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("max_parallel_workers_per_gather", "0"),
        ("jit", "off"),
    ]);
    session.connect().await.context("PostgreSQL")
}

/// The same for a command that reads whole tables: in the order of the disk, and joined and grouped by hashes that spill to
/// temporary files. Any index scan would read pages of a large table in random order, and a sort would write all rows.
pub async fn connect_to_scan(settings: &DatabaseSettings, name: &str) -> anyhow::Result<PgConnection> {
    let session = settings.database_url.session(SCHEMA, &format!("like-aggregator-{name}")).with([
        ("enable_indexscan", "off"),
        ("enable_indexonlyscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_nestloop", "off"),
        ("enable_mergejoin", "off"),
        ("enable_sort", "off"),
        ("enable_seqscan", "on"),
        ("enable_hashjoin", "on"),
        ("enable_hashagg", "on"),
        ("work_mem", "64MB"),
        ("hash_mem_multiplier", "1"),
        ("max_parallel_workers_per_gather", "0"),
        ("jit", "off"),
    ]);
    session.connect().await.context("PostgreSQL")
}

/// Begins a transaction beside the workers', which doesn't block them. All its statements see the same tables: the lock
/// conflicts only with the swap of a `rebuild`, and with [`between_batches`].
pub async fn beside_batches(connection: &mut PgConnection) -> anyhow::Result<Transaction<'_, Postgres>> {
    begin(connection, "LOCK TABLE kafka_offset IN ROW SHARE MODE").await
}

/// Begins a transaction that overlaps with no worker's. Workers wait between two batches until it ends, so it has to be
/// short. It locks the table and not its rows: if `rebuild` swaps while this waits, the lock is on the new table. Only
/// statements after the lock see what was committed before it.
pub async fn between_batches(connection: &mut PgConnection) -> anyhow::Result<Transaction<'_, Postgres>> {
    begin(connection, LOCK_BATCHES).await
}

async fn begin<'c>(connection: &'c mut PgConnection, lock: &'static str) -> anyhow::Result<Transaction<'c, Postgres>> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    let locked = sqlx::query(lock).execute(&mut *transaction).await;
    if let Err(error) = locked {
        let busy = sqlstate(&error).as_deref() == Some("55P03");
        let hint = if busy { "kafka_offset stayed locked: try again" } else { "locking kafka_offset" };
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

/// Returns the topics in the order of folding.
pub async fn layouts(connection: &mut PgConnection) -> anyhow::Result<Vec<Layout>> {
    layout::read_all(connection).await.context("topic_layout (made by `like-aggregator setup`)")
}
