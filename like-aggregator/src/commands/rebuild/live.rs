//! The live schema as a rebuild sees it: what makes it newer than the tables that this build can fill.

use anyhow::bail;
use like_common::database::SCHEMA;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fold::FOLD_VERSION;
use crate::schema::{fold_rules, shadow};

/// The shadow schema of a rebuild.
pub(super) const REBUILT: &str = "likes_rebuild";

/// Refuses when the fold settings have changed since they were copied.
pub(super) async fn check_fold_rules(connection: &mut PgConnection) -> anyhow::Result<()> {
    let (live, own) = (fold_rules::read(connection, SCHEMA).await?, fold_rules::read(connection, REBUILT).await?);
    if live != own {
        bail!("DEDUP or DEDUP_WINDOW were changed by `setup` meanwhile: run it again");
    }
    Ok(())
}

/// Refuses when the live tables are newer than this build, or have a gap that the rebuilt ones would lose.
pub(super) async fn check_live(connection: &mut PgConnection) -> anyhow::Result<()> {
    let found = shadow::live_fold_version(connection).await?;
    if found > FOLD_VERSION {
        bail!("the live tables are of fold version {found} and this build folds by {FOLD_VERSION}: use a newer build");
    }
    let newer = format!(
        "SELECT version FROM {SCHEMA}._sqlx_migrations WHERE version NOT IN (SELECT version FROM _sqlx_migrations) LIMIT 1"
    );
    if let Some(version) = sqlx::query_scalar::<_, i64>(AssertSqlSafe(newer)).fetch_optional(&mut *connection).await? {
        bail!("the live tables have migration {version}, which this build doesn't know: use a newer build");
    }
    shadow::check_gaps(connection).await
}
