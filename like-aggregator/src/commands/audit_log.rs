//! `audit --log`: are likes, counts and deltas what the log says? Copies the live ones, with the
//! offsets of the same moment, beside empty tables, folds the log into those exactly up to these
//! offsets, and compares. The live aggregators go on meanwhile, and no old snapshot keeps vacuum
//! from its work while the log is folded.
//!
//! Memory is a replay's (two batches), and [`LISTED`] differences of each kind; the rest is the
//! server's. Disk, until the end: what the live tables take once more, and a copy of the live likes
//! and counts.

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Utc};
use like_common::cli::UsageError;
use like_common::database::SCHEMA;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, Row as _};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Outcome;
use crate::cli::AuditSettings;
use crate::commands::output::{Table, answer};
use crate::fold::{Dedup, FOLD_VERSION};
use crate::replay::Replay;
use crate::schema::shadow::{self, Ends, ShadowSchema};

/// The schema that is filled, and dropped at the end.
const AUDITED: &str = "likes_audit";

/// Differences that are named, of each kind.
const LISTED: i64 = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The moment that the live tables were copied.
    at: DateTime<Utc>,
    records: i64,
    fold_version: i32,
    build_fold_version: i32,
    /// With DEDUP=batch a replay has its batches cut elsewhere, and drops other repeats.
    replay_may_differ: bool,
    products: Differences<Product>,
    likes: Differences<Like>,
}

#[derive(Serialize)]
struct Differences<T> {
    differing: i64,
    /// The first of them.
    differences: Vec<T>,
}

/// A product whose numbers aren't what the log says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Product {
    product_id: String,
    like_count: i64,
    expected_like_count: i64,
    delta_count: i64,
    expected_delta_count: i64,
}

impl FromRow<'_, PgRow> for Product {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            product_id: row.try_get("product_id")?,
            like_count: row.try_get("like_count")?,
            expected_like_count: row.try_get("expected_like_count")?,
            delta_count: row.try_get("delta_count")?,
            expected_delta_count: row.try_get("expected_delta_count")?,
        })
    }
}

/// A user who likes a product only in the tables, or only by the log.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Like {
    product_id: String,
    user_id: String,
    liked: bool,
    expected_liked: bool,
}

impl FromRow<'_, PgRow> for Like {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            product_id: row.try_get("product_id")?,
            user_id: row.try_get("user_id")?,
            liked: row.try_get("liked")?,
            expected_liked: row.try_get("expected_liked")?,
        })
    }
}

/// Folds and compares.
pub async fn audit_log(settings: &AuditSettings, shutdown: CancellationToken) -> anyhow::Result<Outcome> {
    let Some(kafka) = &settings.kafka.0 else {
        let unset = "KAFKA_BOOTSTRAP_SERVERS (--kafka-bootstrap-servers) is not set: audit --log reads the log from these brokers, host:port[,host:port…]";
        return Err(UsageError(unset.to_owned()).into());
    };
    let client = kafka.client_config("like-aggregator-audit")?;
    let replay = Replay::new(client, &settings.database.database_url, &settings.fold.replay(), AUDITED, "audit")?;
    let mut shadow_schema = tokio::select! {
        made = ShadowSchema::create(&settings.database.database_url, AUDITED) => made?,
        () = shutdown.cancelled() => bail!("stopped"),
    };
    let audited = tokio::select! {
        audited = fold_and_compare(&replay, &mut shadow_schema) => audited,
        () = shutdown.cancelled() => Err(anyhow!("stopped")),
    };
    if let Err(error) = shadow_schema.remove().await {
        warn!("schema {AUDITED} is left behind, the next audit drops it: {error:#}");
    }
    let report = Report { replay_may_differ: settings.fold.dedup() == Dedup::Batch, ..audited? };
    answer(settings.json, &report, Report::text)?;
    Ok(Outcome::unless(report.products.differing + report.likes.differing > 0))
}

async fn fold_and_compare(replay: &Replay, shadow_schema: &mut ShadowSchema) -> anyhow::Result<Report> {
    shadow_schema.copy_layout().await?;
    let connection = shadow_schema.connection().await?;
    shadow::check_gaps(connection).await?;
    let fold_version = shadow::live_fold_version(connection).await?;
    let (at, ends) = copy_live(connection).await?;
    replay.check_log(&ends).await?;
    replay.fold(&ends).await?;
    let connection = shadow_schema.connection().await?;
    for compare in COMPARE {
        sqlx::query(compare).execute(&mut *connection).await.context("comparing")?;
    }
    Ok(Report {
        at,
        records: ends.iter().flat_map(|(_, ends)| ends).sum(),
        fold_version,
        build_fold_version: FOLD_VERSION,
        replay_may_differ: false,
        products: differences(connection, "differing_product", "product_id").await?,
        likes: differences(connection, "differing_like", "product_id, user_id").await?,
    })
}

/// Copies what is to be compared, all of one moment, and answers up to where it is folded.
async fn copy_live(connection: &mut PgConnection) -> anyhow::Result<(DateTime<Utc>, Ends)> {
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    // Before the snapshot is taken: a `rebuild` that swapped after it would have us read the new
    // tables as they were at a time when they weren't filled. Workers don't mind this lock.
    let lock = format!("LOCK TABLE {SCHEMA}.kafka_offset IN ROW SHARE MODE");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *snapshot).await.context("locking kafka_offset")?;
    let ends = shadow::live_ends(&mut snapshot).await?;
    let at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *snapshot).await?;
    for copy in [
        format!(
            "CREATE UNLOGGED TABLE live_count AS
             SELECT product_id, like_count, delta_count FROM {SCHEMA}.product_like_count"
        ),
        format!(
            "CREATE UNLOGGED TABLE live_like AS
             SELECT pair_key, product_id, user_id FROM {SCHEMA}.product_like WHERE liked"
        ),
    ] {
        sqlx::query(AssertSqlSafe(copy)).execute(&mut *snapshot).await.context("copying the live tables")?;
    }
    snapshot.commit().await?;
    Ok((at, ends))
}

/// A product without a row has no likes, as has a user whose row says so.
const COMPARE: [&str; 2] = [
    "CREATE UNLOGGED TABLE differing_product AS SELECT * FROM (
         SELECT product_id,
                coalesce(live.like_count, 0) AS like_count, coalesce(own.like_count, 0) AS expected_like_count,
                coalesce(live.delta_count, 0) AS delta_count, coalesce(own.delta_count, 0) AS expected_delta_count
         FROM live_count live FULL JOIN product_like_count own USING (product_id)) both_sides
     WHERE like_count <> expected_like_count OR delta_count <> expected_delta_count",
    "CREATE UNLOGGED TABLE differing_like AS SELECT * FROM (
         SELECT coalesce(live.product_id, own.product_id) AS product_id, coalesce(live.user_id, own.user_id) AS user_id,
                live.product_id IS NOT NULL AS liked, own.product_id IS NOT NULL AS expected_liked
         FROM live_like live FULL JOIN (SELECT * FROM product_like WHERE liked) own USING (pair_key)) both_sides
     WHERE liked <> expected_liked",
];

async fn differences<T>(connection: &mut PgConnection, table: &str, order: &str) -> anyhow::Result<Differences<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    let differing = sqlx::query_scalar(count).fetch_one(&mut *connection).await?;
    let first = AssertSqlSafe(format!("SELECT * FROM {table} ORDER BY {order} LIMIT {LISTED}"));
    Ok(Differences { differing, differences: sqlx::query_as(first).fetch_all(connection).await? })
}

impl Report {
    fn text(&self) -> String {
        let Self { records, fold_version, build_fold_version, products, likes, .. } = self;
        let mut parts = vec![format!(
            "log folded            {records} records, to where the tables stood at {}\n\
             fold version          {fold_version} in the database, {build_fold_version} in this build\n\
             products that differ  {}\nlikes that differ     {}",
            self.at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            products.differing,
            likes.differing
        )];
        if self.replay_may_differ {
            parts.push(
                "With DEDUP=batch a replay may differ without an error: its batches are cut elsewhere.".to_owned(),
            );
        }
        if products.differing > 0 {
            let mut table = Table::new(&["product", "count", "by the log", "deltas", "by the log"]);
            for p in &products.differences {
                let numbers = [p.like_count, p.expected_like_count, p.delta_count, p.expected_delta_count];
                let numbers = numbers.iter().map(i64::to_string);
                table.row(&std::iter::once(p.product_id.clone()).chain(numbers).collect::<Vec<_>>());
            }
            parts.push(format!("\nproducts that differ{}:\n\n{}", products.first(), table.text()));
        }
        if likes.differing > 0 {
            let mut table = Table::new(&["product", "user", "in the table", "by the log"]);
            let says = |liked: bool| if liked { "likes" } else { "doesn't" }.to_owned();
            for l in &likes.differences {
                table.row(&[l.product_id.clone(), l.user_id.clone(), says(l.liked), says(l.expected_liked)]);
            }
            parts.push(format!("\nlikes that differ{}:\n\n{}", likes.first(), table.text()));
        }
        parts.join("\n")
    }
}

impl<T> Differences<T> {
    fn first(&self) -> String {
        if self.differing > LISTED { format!(", the first {LISTED}") } else { String::new() }
    }
}
