//! `audit --log`: compares likes, counts, deltas and hours with what the log folds to. It copies the live ones and their offsets
//! at one moment, folds the log into a shadow schema up to these offsets, and compares. The aggregators continue
//! meanwhile, and no old snapshot holds up vacuum while the log is folded.
//!
//! Memory is bounded by a replay's two batches and [`LISTED`] differences of each kind; the server compares. Until the
//! end, the disk holds the live tables a second time, and a copy of the live likes, counts and hours.

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Utc};
use like_common::cli::UsageError;
use like_common::database::SCHEMA;
use rdkafka::ClientConfig;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Outcome;
use crate::cli::AuditSettings;
use crate::commands::connection;
use crate::commands::output::{Table, answer, time};
use crate::fold::FOLD_VERSION;
use crate::replay::Replay;
use crate::schema::shadow::{self, Ends, ShadowSchema};

/// The shadow schema, which is dropped at the end.
const AUDITED: &str = "likes_audit";

/// Differences that are named, of each kind.
const LISTED: i64 = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogAudit {
    /// The moment at which the live tables were copied.
    at: DateTime<Utc>,
    records: i64,
    fold_version: i32,
    build_fold_version: i32,
    /// With DEDUP=batch a replay cuts its batches elsewhere, and drops other repeats.
    replay_may_differ: bool,
    products: Differences<ProductDifference>,
    likes: Differences<LikeDifference>,
    hours: Differences<HourDifference>,
}

#[derive(Serialize)]
struct Differences<T> {
    differing: i64,
    /// The first of them.
    differences: Vec<T>,
}

/// A product whose numbers differ between the tables and the log.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProductDifference {
    product_id: String,
    like_count: i64,
    expected_like_count: i64,
    delta_count: i64,
    expected_delta_count: i64,
}

/// A user who likes a product only in the tables, or only by the log.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LikeDifference {
    product_id: String,
    user_id: String,
    liked: bool,
    expected_liked: bool,
}

/// An hour or a day in which a product gained other likes by the log than in the tables.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HourDifference {
    product_id: String,
    /// Its begin. None: all hours, as some likes have none in the tables.
    at: Option<DateTime<Utc>>,
    likes: i64,
    expected_likes: i64,
}

pub async fn audit_log(settings: &AuditSettings, shutdown: CancellationToken) -> anyhow::Result<Outcome> {
    let Some(kafka) = &settings.kafka.0 else {
        let unset = "KAFKA_BOOTSTRAP_SERVERS (--kafka-bootstrap-servers) is not set: audit --log reads the log from these brokers, host:port[,host:port…]";
        return Err(UsageError(unset.to_owned()).into());
    };
    let url = &settings.report.database.database_url;
    let client = kafka.client_config("like-aggregator-audit")?;
    let mut shadow_schema = tokio::select! {
        made = ShadowSchema::create(url, AUDITED) => made?,
        () = shutdown.cancelled() => bail!("stopped"),
    };
    let audited = tokio::select! {
        audited = fold_and_compare(settings, client, &mut shadow_schema) => audited,
        () = shutdown.cancelled() => Err(anyhow!("stopped")),
    };
    if let Err(error) = shadow_schema.remove().await {
        warn!("schema {AUDITED} is left behind, the next audit drops it: {error:#}");
    }
    let report = audited?;
    answer(settings.report.json, &report, LogAudit::text)?;
    Ok(Outcome::unless(report.products.differing + report.likes.differing + report.hours.differing > 0))
}

async fn fold_and_compare(
    settings: &AuditSettings,
    client: ClientConfig,
    shadow_schema: &mut ShadowSchema,
) -> anyhow::Result<LogAudit> {
    shadow_schema.copy_layout().await?;
    let connection = shadow_schema.connection().await?;
    shadow::check_gaps(connection).await?;
    let fold_version = shadow::live_fold_version(connection).await?;
    let rules = shadow_schema.copy_fold_rules(&settings.fold.dedup).await?;
    let url = &settings.report.database.database_url;
    let replay = Replay::new(client, url, settings.fold.clone(), rules, AUDITED);
    let connection = shadow_schema.connection().await?;
    let (at, ends) = copy_live(connection).await?;
    replay.check_log(&ends, &connection::layouts(connection).await?).await?;
    shadow_schema.held_while(replay.fold(&ends)).await?;
    let connection = shadow_schema.connection().await?;
    for compare in COMPARE {
        sqlx::query(compare).execute(&mut *connection).await.context("comparing")?;
    }
    let product = |(product_id, like_count, expected_like_count, delta_count, expected_delta_count)| {
        ProductDifference { product_id, like_count, expected_like_count, delta_count, expected_delta_count }
    };
    let like =
        |(product_id, user_id, liked, expected_liked)| LikeDifference { product_id, user_id, liked, expected_liked };
    let hour = |(product_id, at, likes, expected_likes)| HourDifference { product_id, at, likes, expected_likes };
    Ok(LogAudit {
        at,
        records: ends.iter().flat_map(|(_, ends)| ends).sum(),
        fold_version,
        build_fold_version: FOLD_VERSION,
        replay_may_differ: !rules.is_history,
        products: differences(connection, "differing_product", "product_id", product).await?,
        likes: differences(connection, "differing_like", "product_id, user_id", like).await?,
        hours: differences(connection, "differing_hour", "product_id, hour", hour).await?,
    })
}

/// Copies the live likes, counts and hours in one snapshot. Returns its time and its offsets.
async fn copy_live(connection: &mut PgConnection) -> anyhow::Result<(DateTime<Utc>, Ends)> {
    let mut snapshot = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    // Taken before the snapshot: if a `rebuild` swapped after it, the snapshot would show the new tables at a time when
    // they weren't filled yet. The lock doesn't block workers.
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
        format!("CREATE UNLOGGED TABLE live_hour AS SELECT * FROM {SCHEMA}.product_like_hour"),
    ] {
        sqlx::query(AssertSqlSafe(copy)).execute(&mut *snapshot).await.context("copying the live tables")?;
    }
    snapshot.commit().await?;
    Ok((at, ends))
}

/// A product without a row has no likes, and neither has a user whose row is not `liked`.
///
/// Hours are compared by day where one side may have summed them already (0014). Those of a product that has likes without
/// an hour are compared as one.
const COMPARE: [&str; 4] = [
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
    "CREATE FUNCTION compared_hour(hour timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
         SELECT CASE WHEN hour < now() - interval '35 days' THEN date_trunc('day', hour, 'UTC') ELSE hour END $$",
    "CREATE UNLOGGED TABLE differing_hour AS
     WITH without AS (SELECT product_id FROM live_hour WHERE hour = '-infinity' AND likes <> 0),
          live AS (SELECT product_id, CASE WHEN w.product_id IS NULL THEN compared_hour(hour) ELSE '-infinity' END AS hour,
                          sum(likes) AS likes
                   FROM live_hour LEFT JOIN without w USING (product_id) GROUP BY 1, 2),
          own AS (SELECT product_id, CASE WHEN w.product_id IS NULL THEN compared_hour(hour) ELSE '-infinity' END AS hour,
                         sum(likes) AS likes
                  FROM product_like_hour LEFT JOIN without w USING (product_id) GROUP BY 1, 2)
     SELECT * FROM (
         SELECT product_id, nullif(hour, '-infinity') AS hour, coalesce(live.likes, 0)::bigint AS likes,
                coalesce(own.likes, 0)::bigint AS expected_likes
         FROM live FULL JOIN own USING (product_id, hour)) both_sides
     WHERE likes <> expected_likes",
];

async fn differences<T, R: for<'r> FromRow<'r, PgRow> + Send + Unpin>(
    connection: &mut PgConnection,
    table: &str,
    order: &str,
    difference: impl Fn(R) -> T,
) -> anyhow::Result<Differences<T>> {
    let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    let differing = sqlx::query_scalar(count).fetch_one(&mut *connection).await?;
    let first = AssertSqlSafe(format!("SELECT * FROM {table} ORDER BY {order} LIMIT {LISTED}"));
    let rows: Vec<R> = sqlx::query_as(first).fetch_all(connection).await?;
    Ok(Differences { differing, differences: rows.into_iter().map(difference).collect() })
}

impl LogAudit {
    fn text(&self) -> String {
        let Self { records, fold_version, build_fold_version, products, likes, hours, .. } = self;
        let mut parts = vec![format!(
            "log folded            {records} records, up to the tables' offsets of {}\n\
             fold version          {fold_version} in the database, {build_fold_version} in this build\n\
             products that differ  {}\nlikes that differ     {}\n\
             hours that differ     {}",
            time(self.at),
            products.differing,
            likes.differing,
            hours.differing
        )];
        if self.replay_may_differ {
            parts.push(
                "With DEDUP=batch a replay may differ without an error: it cuts its batches elsewhere.".to_owned(),
            );
        }
        if products.differing > 0 {
            let mut table = Table::new(&["product", "count", "by the log", "deltas", "by the log"]);
            for p in &products.differences {
                let deltas = (&p.delta_count, &p.expected_delta_count);
                table.row(&[&p.product_id, &p.like_count, &p.expected_like_count, deltas.0, deltas.1]);
            }
            parts.push(format!("\nproducts that differ{}:\n\n{}", products.first(), table.text()));
        }
        if likes.differing > 0 {
            let mut table = Table::new(&["product", "user", "in the table", "by the log"]);
            let says = |liked: bool| if liked { "likes" } else { "doesn't" };
            for l in &likes.differences {
                table.row(&[&l.product_id, &l.user_id, &says(l.liked), &says(l.expected_liked)]);
            }
            parts.push(format!("\nlikes that differ{}:\n\n{}", likes.first(), table.text()));
        }
        if hours.differing > 0 {
            let mut table = Table::new(&["product", "hour or day", "likes", "by the log"]);
            for h in &hours.differences {
                let at = h.at.map_or_else(|| "all".to_owned(), time);
                table.row(&[&h.product_id, &at, &h.likes, &h.expected_likes]);
            }
            parts.push(format!("\nhours that differ{}:\n\n{}", hours.first(), table.text()));
        }
        parts.join("\n")
    }
}

impl<T> Differences<T> {
    fn first(&self) -> String {
        if self.differing > LISTED { format!(", the first {LISTED}") } else { String::new() }
    }
}
