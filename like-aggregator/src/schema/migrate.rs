//! Creates a schema, runs the migrations in it and records the fold version.

use anyhow::{Context, bail};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fold::batch::FOLD_VERSION;

/// Migrates `schema`, which the connection has in its search_path. sqlx takes an advisory lock, so concurrent calls wait
/// for each other.
pub async fn migrate(connection: &mut PgConnection, schema: &'static str) -> anyhow::Result<()> {
    // CREATE SCHEMA needs a right that a role which only repeats `setup` may lack, and IF NOT EXISTS still fails when two
    // sessions create it at the same moment.
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        let created =
            sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}"))).execute(&mut *connection).await;
        if let Err(error) = created
            && !error.as_database_error().is_some_and(|e| e.is_unique_violation())
        {
            return Err(error).context("creating the schema");
        }
    }
    // An unknown migration is a newer build's, and this build works with it.
    let mut migrations = like_common::migrations::migrator();
    migrations.set_ignore_missing(true).run(&mut *connection).await.context("migrations")?;
    let insert = "INSERT INTO fold (fold_version) VALUES ($1) ON CONFLICT DO NOTHING";
    sqlx::query(insert).bind(FOLD_VERSION).execute(&mut *connection).await?;
    let found: i32 = sqlx::query_scalar("SELECT fold_version FROM fold").fetch_one(&mut *connection).await?;
    if found != FOLD_VERSION {
        bail!("the database holds fold version {found} and this build folds by {FOLD_VERSION}");
    }
    Ok(())
}
