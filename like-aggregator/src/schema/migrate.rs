//! Creates a schema and its tables, or brings them up to date: the live one (`setup`) and the shadow
//! ones that a replay fills.

use anyhow::Context;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fold::FOLD_VERSION;

/// Creates the schema, which `connection` has in its search_path, and runs the migrations in it. sqlx takes a lock, so two
/// processes wait for each other.
pub async fn migrate(connection: &mut PgConnection, schema: &'static str) -> anyhow::Result<()> {
    // IF NOT EXISTS still fails when two processes create the schema at the same moment, and it needs
    // a right that a user who only repeats `setup` may not have.
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
    // A migration that this build doesn't know belongs to a newer build; this build works with it too.
    let mut migrations = like_common::migrations::migrator();
    migrations.set_ignore_missing(true).run(&mut *connection).await.context("migrations")?;
    let insert = "INSERT INTO fold (fold_version) VALUES ($1) ON CONFLICT DO NOTHING";
    sqlx::query(insert).bind(FOLD_VERSION).execute(&mut *connection).await?;
    Ok(())
}
