//! `audit`: compares every count with the number of its likers plus its delta events. `audit --repair` adds what is missing
//! from those that differ. Both run beside aggregators: each chunk is one statement, so it sees likes and counts of one
//! moment. A repair adds the difference to whatever the count is by then, since each batch changes likes and count alike.
//!
//! Memory is bounded by a chunk of [`LIKES`] likes (and the rest of its last product's, which the server counts without
//! keeping them) or [`COUNTS`] counts, and by the [`LISTED`] products named.

use std::fmt::Write as _;

use anyhow::Context;
use like_events::ProductPrefix;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::{Outcome, not_done};
use crate::cli::AuditSettings;
use crate::commands::connection;
use crate::commands::output::{Table, answer, or_dash};
use crate::progress::Progress;

/// Rows of `product_like` in a chunk.
const LIKES: i64 = 50_000;
/// Rows of `product_like_count` in a chunk.
const COUNTS: i64 = 10_000;
/// Products that are named, of each kind.
const LISTED: usize = 1_000;

/// A part of the tables that one statement compares.
enum Chunk {
    /// Products that have likes, by their keys, first to last. A product's keys are never split.
    Likes(Uuid, Uuid),
    /// These products, those of them that have no likes.
    Counts(Vec<String>),
}

/// A product whose count differs from the expected one, or is rightly below zero.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuditedCount {
    product_id: String,
    likers: i64,
    deltas: i64,
    expected: i64,
    /// None: it has no row, which means 0.
    found: Option<i64>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct CountAudit {
    products: u64,
    differing: u64,
    repaired: u64,
    /// Counts that are rightly below zero, by delta events.
    negative: u64,
    /// The first of those that differ.
    differences: Vec<AuditedCount>,
    negatives: Vec<AuditedCount>,
}

pub async fn audit(settings: &AuditSettings) -> anyhow::Result<Outcome> {
    let repair = settings.repair && settings.yes;
    let report = counts(settings, repair).await?;
    answer(settings.report.json, &report, CountAudit::text)?;
    if settings.repair && !repair && report.differing > 0 {
        return Err(not_done("repair them"));
    }
    Ok(Outcome::unless(report.differing > 0))
}

async fn counts(settings: &AuditSettings, repair: bool) -> anyhow::Result<CountAudit> {
    let mut connection = connection::connect(&settings.report.database, "audit").await?;
    let mut report = CountAudit::default();
    let progress = Progress::new("chunks compared", None);
    let mut next = Some(Uuid::nil());
    while let Some(from) = next {
        let sql = "SELECT pair_key FROM product_like WHERE pair_key >= $1 ORDER BY pair_key OFFSET $2 LIMIT 1";
        let key: Option<Uuid> = sqlx::query_scalar(sql).bind(from).bind(LIKES).fetch_optional(&mut connection).await?;
        // The largest key that the last product in the chunk may have.
        let last = key.map_or(Uuid::max(), |key| ProductPrefix::of_key(key).keys().1);
        report.take(&mut connection, &Chunk::Likes(from, last), repair).await?;
        next = last.as_u128().checked_add(1).map(Uuid::from_u128);
        progress.add(1);
    }
    let mut after = String::new();
    loop {
        let sql = "SELECT product_id FROM product_like_count WHERE product_id > $1 ORDER BY product_id LIMIT $2";
        let products: Vec<String> =
            sqlx::query_scalar(sql).bind(&after).bind(COUNTS).fetch_all(&mut connection).await?;
        let Some(last) = products.last() else { break };
        after.clone_from(last);
        report.products += products.len() as u64;
        report.take(&mut connection, &Chunk::Counts(products), repair).await?;
        progress.add(1);
    }
    connection.close().await?;
    Ok(report)
}

/// Selects the products of a [`Chunk::Likes`] whose counts differ or are below zero.
const OF_LIKES: &str = "
    SELECT product_id, likers, coalesce(c.delta_count, 0) AS deltas, c.like_count AS found
    FROM (SELECT product_id, count(*) FILTER (WHERE liked) AS likers
          FROM product_like WHERE pair_key BETWEEN $1 AND $2 GROUP BY product_id) l
    LEFT JOIN product_like_count c USING (product_id)
    WHERE coalesce(c.like_count, 0) <> likers + coalesce(c.delta_count, 0) OR likers + coalesce(c.delta_count, 0) < 0
    ORDER BY product_id";

/// The same for a [`Chunk::Counts`].
const OF_COUNTS: &str = "
    SELECT product_id, 0::bigint AS likers, c.delta_count AS deltas, c.like_count AS found
    FROM unnest($1::text[], $2::uuid[], $3::uuid[]) AS asked (product_id, first_key, last_key)
    JOIN product_like_count c USING (product_id)
    LEFT JOIN LATERAL (SELECT true AS found FROM product_like l
                       WHERE l.pair_key BETWEEN asked.first_key AND asked.last_key
                         AND l.product_id = asked.product_id
                       ORDER BY l.pair_key LIMIT 1) AS like_of ON true
    WHERE (c.like_count <> c.delta_count OR c.delta_count < 0) AND like_of.found IS NULL
    ORDER BY product_id";

/// Returns the products of a chunk whose counts differ or are below zero, by one statement. With `repair` the same statement
/// adds the differences, in product order like a batch.
async fn compare(connection: &mut PgConnection, chunk: &Chunk, repair: bool) -> sqlx::Result<Vec<AuditedCount>> {
    let of_chunk = if matches!(chunk, Chunk::Likes(..)) { OF_LIKES } else { OF_COUNTS };
    let sql = if repair {
        format!(
            "WITH compared AS ({of_chunk}), repaired AS (
                 INSERT INTO product_like_count AS old (product_id, like_count, delta_count, updated_at)
                 SELECT product_id, likers + deltas - coalesce(found, 0), deltas, now()
                 FROM compared WHERE likers + deltas <> coalesce(found, 0) ORDER BY product_id
                 ON CONFLICT (product_id) DO UPDATE
                 SET like_count = old.like_count + excluded.like_count, updated_at = excluded.updated_at)
             SELECT * FROM compared"
        )
    } else {
        of_chunk.to_owned()
    };
    let query = sqlx::query_as(AssertSqlSafe(sql));
    let query = match chunk {
        Chunk::Likes(first, last) => query.bind(first).bind(last),
        Chunk::Counts(products) => {
            let (first, last): (Vec<_>, Vec<_>) = products.iter().map(|p| ProductPrefix::of(p).keys()).unzip();
            query.bind(products).bind(first).bind(last)
        }
    };
    let count = |(product_id, likers, deltas, found): (String, i64, i64, Option<i64>)| AuditedCount {
        product_id,
        likers,
        deltas,
        expected: likers + deltas,
        found,
    };
    Ok(query.fetch_all(connection).await?.into_iter().map(count).collect())
}

/// Compares the chunk once more and adds the differences. Returns what differed.
async fn repair(connection: &mut PgConnection, chunk: &Chunk) -> anyhow::Result<Vec<AuditedCount>> {
    let mut transaction = connection::beside_batches(connection).await?;
    // Two repairs would add the same difference twice.
    let one = "SELECT pg_advisory_xact_lock(hashtextextended('audit --repair', 0))";
    sqlx::query(one).execute(&mut *transaction).await.context("another audit repairs counts")?;
    let found = compare(&mut transaction, chunk, true).await?;
    transaction.commit().await?;
    Ok(found)
}

impl AuditedCount {
    fn differs(&self) -> bool {
        self.found.unwrap_or(0) != self.expected
    }
}

impl CountAudit {
    async fn take(&mut self, connection: &mut PgConnection, chunk: &Chunk, wanted: bool) -> anyhow::Result<()> {
        let mut found = compare(connection, chunk, false).await?;
        if wanted && found.iter().any(AuditedCount::differs) {
            found = repair(connection, chunk).await?;
            self.repaired += found.iter().filter(|product| product.differs()).count() as u64;
        }
        for product in found {
            // Products with a row were added with the chunks of counts.
            self.products += u64::from(product.found.is_none() && matches!(chunk, Chunk::Likes(..)));
            let (kind, named) = if product.differs() {
                (&mut self.differing, &mut self.differences)
            } else {
                (&mut self.negative, &mut self.negatives)
            };
            *kind += 1;
            if named.len() < LISTED {
                named.push(product);
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!("products compared    {}\ncounts that differ   {}", self.products, self.differing);
        if self.repaired > 0 {
            let _ = write!(text, ", {} of them repaired", self.repaired);
        }
        let _ = writeln!(text, "\ncounts below zero    {} (by delta events)", self.negative);
        for (title, all, products) in
            [("differ", self.differing, &self.differences), ("are below zero", self.negative, &self.negatives)]
        {
            if products.is_empty() {
                continue;
            }
            let first =
                if all > products.len() as u64 { format!(", the first {}", products.len()) } else { String::new() };
            let _ = writeln!(text, "\nproducts whose counts {title}{first}:\n");
            let mut table = Table::new(&["product", "likers", "deltas", "expected", "found"]);
            for AuditedCount { product_id, likers, deltas, expected, found } in products {
                table.row(&[product_id, likers, deltas, expected, &or_dash(*found)]);
            }
            text += &table.text();
            text.push('\n');
        }
        text
    }
}
