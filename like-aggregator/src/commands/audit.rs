//! `audit`: compares every count with the number of its likers plus its delta events. `audit --repair` adds what is missing
//! from those that differ. Both run beside aggregators: one statement compares likes and counts of one moment. A repair adds
//! the difference to whatever the count is by then, since each batch changes likes and count alike.
//!
//! The statement reads each table once, in the order of the disk: by `product_like`'s index each row of a table that is
//! larger than memory would be a read of its own. The server keeps what exceeds its `work_mem` in temporary files; this
//! process keeps a chunk of [`REPAIRED`] differences and the [`LISTED`] products named.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::PgConnection;

use super::{Outcome, not_done};
use crate::cli::AuditSettings;
use crate::commands::connection;
use crate::commands::output::{Table, answer, or_dash};

/// Counts that one transaction repairs, which blocks batches on the same products until it ends.
const REPAIRED: usize = 1_000;
/// Products that are named, of each kind.
const LISTED: usize = 1_000;

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
    /// Some of those that differ.
    differences: Vec<AuditedCount>,
    negatives: Vec<AuditedCount>,
}

/// The products whose counts differ or are below zero.
const COMPARE: &str = "
    SELECT product_id, likers, deltas, found
    FROM (SELECT product_id, coalesce(likers, 0) AS likers, coalesce(delta_count, 0) AS deltas, like_count AS found
          FROM (SELECT product_id, count(*) AS likers FROM product_like WHERE liked GROUP BY product_id) l
          FULL JOIN product_like_count USING (product_id)) compared
    WHERE coalesce(found, 0) <> likers + deltas OR likers + deltas < 0";

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
    let database = &settings.report.database;
    let mut repairer =
        if repair { Some(Repairer::new(connection::connect(database, "audit").await?).await?) } else { None };
    let mut connection = connection::connect_to_scan(database, "audit").await?;
    let products: i64 =
        sqlx::query_scalar("SELECT count(*) FROM product_like_count").fetch_one(&mut connection).await?;
    let mut report = CountAudit { products: products.cast_unsigned(), ..CountAudit::default() };
    let mut rows = sqlx::query_as(COMPARE).fetch(&mut connection);
    while let Some((product_id, likers, deltas, found)) = rows.try_next().await? {
        let product = AuditedCount { product_id, likers, deltas, expected: likers + deltas, found };
        if let Some(repairer) = &mut repairer
            && product.differs()
        {
            report.repaired += repairer.add(&product).await?;
        }
        report.take(product);
    }
    if let Some(repairer) = &mut repairer {
        report.repaired += repairer.flush().await?;
    }
    report.differences.sort_by(|a, b| a.product_id.cmp(&b.product_id));
    report.negatives.sort_by(|a, b| a.product_id.cmp(&b.product_id));
    Ok(report)
}

/// Adds differences to the counts, while the comparison still returns more of them.
struct Repairer {
    connection: PgConnection,
    /// The tables that are compared. A `rebuild` may swap in others, whose counts lack nothing.
    tables: (i64, i64),
    /// Products, and what their counts lack.
    differences: Vec<(String, i64)>,
}

impl Repairer {
    /// Waits for another repair: both would add the same differences. Its lock ends with the connection.
    async fn new(mut connection: PgConnection) -> anyhow::Result<Self> {
        let one = "SELECT pg_advisory_lock(hashtextextended('audit --repair', 0))";
        sqlx::query(one).execute(&mut connection).await.context("another audit repairs counts")?;
        let tables = Self::tables(&mut connection).await?;
        Ok(Self { connection, tables, differences: Vec::new() })
    }

    async fn tables(connection: &mut PgConnection) -> sqlx::Result<(i64, i64)> {
        let sql = "SELECT 'product_like'::regclass::oid::bigint, 'product_like_count'::regclass::oid::bigint";
        sqlx::query_as(sql).fetch_one(connection).await
    }

    /// Returns how many counts are repaired by it.
    async fn add(&mut self, product: &AuditedCount) -> anyhow::Result<u64> {
        self.differences.push((product.product_id.clone(), product.expected - product.found.unwrap_or(0)));
        if self.differences.len() < REPAIRED { Ok(0) } else { self.flush().await }
    }

    /// Repairs in product order like a batch, so that the two don't deadlock.
    async fn flush(&mut self) -> anyhow::Result<u64> {
        self.differences.sort();
        let (products, differences): (Vec<_>, Vec<_>) = self.differences.drain(..).unzip();
        let mut transaction = connection::beside_batches(&mut self.connection).await?;
        if Self::tables(&mut transaction).await? != self.tables {
            bail!("a rebuild has replaced the tables that were compared: run it again");
        }
        let sql = "INSERT INTO product_like_count AS old (product_id, like_count, delta_count, updated_at)
                   SELECT product_id, difference, 0, now()
                   FROM unnest($1::text[], $2::bigint[]) AS compared (product_id, difference)
                   ON CONFLICT (product_id) DO UPDATE
                   SET like_count = old.like_count + excluded.like_count, updated_at = excluded.updated_at";
        let done = sqlx::query(sql).bind(products).bind(differences).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(done.rows_affected())
    }
}

impl AuditedCount {
    fn differs(&self) -> bool {
        self.found.unwrap_or(0) != self.expected
    }
}

impl CountAudit {
    fn take(&mut self, product: AuditedCount) {
        self.products += u64::from(product.found.is_none());
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
                if all > products.len() as u64 { format!(", {} of them", products.len()) } else { String::new() };
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
