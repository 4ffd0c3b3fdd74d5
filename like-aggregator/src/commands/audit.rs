//! `audit`: compares every count, and the sum of every product's hours, with the number of its likers plus its delta events.
//! `audit --repair` adds what is missing from those that differ. Both run beside aggregators: one statement compares the
//! tables at one moment. A repair adds the difference to whatever the count is by then, since each batch changes likes,
//! count and hours alike. What is missing from the hours gets no hour: only the log knows it, and `rebuild` reads that.
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

/// A product whose count or hours differ from the expected number, or are rightly below zero.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AuditedCount {
    product_id: String,
    likers: i64,
    deltas: i64,
    expected: i64,
    /// None: it has no row, which means 0.
    found: Option<i64>,
    /// The sum of its hours.
    hours: i64,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct CountAudit {
    products: u64,
    differing: u64,
    repaired: u64,
    /// Products whose hours have another sum than expected.
    differing_hours: u64,
    repaired_hours: u64,
    /// Counts that are rightly below zero, by delta events.
    negative: u64,
    /// Some of those that differ.
    differences: Vec<AuditedCount>,
    negatives: Vec<AuditedCount>,
}

/// The products whose counts or hours differ, or are below zero.
const COMPARE: &str = "
    SELECT product_id, likers, deltas, found, hours
    FROM (SELECT product_id, coalesce(likers, 0) AS likers, coalesce(delta_count, 0) AS deltas, like_count AS found,
                 coalesce(hours, 0) AS hours
          FROM (SELECT product_id, count(*) AS likers FROM product_like WHERE liked GROUP BY product_id) l
          FULL JOIN product_like_count USING (product_id)
          FULL JOIN (SELECT product_id, sum(likes)::bigint AS hours FROM product_like_hour GROUP BY product_id) h
               USING (product_id)) compared
    WHERE coalesce(found, 0) <> likers + deltas OR hours <> likers + deltas OR likers + deltas < 0";

pub async fn audit(settings: &AuditSettings) -> anyhow::Result<Outcome> {
    let repair = settings.repair && settings.yes;
    let report = counts(settings, repair).await?;
    answer(settings.report.json, &report, CountAudit::text)?;
    let differs = report.differing + report.differing_hours > 0;
    if settings.repair && !repair && differs {
        return Err(not_done("repair them"));
    }
    Ok(Outcome::unless(differs))
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
    while let Some((product_id, likers, deltas, found, hours)) = rows.try_next().await? {
        let product = AuditedCount { product_id, likers, deltas, expected: likers + deltas, found, hours };
        if let Some(repairer) = &mut repairer
            && (product.differs() || product.hours_differ())
        {
            repairer.add(&product, &mut report).await?;
        }
        report.take(product);
    }
    if let Some(repairer) = &mut repairer {
        repairer.flush(&mut report).await?;
    }
    report.differences.sort_by(|a, b| a.product_id.cmp(&b.product_id));
    report.negatives.sort_by(|a, b| a.product_id.cmp(&b.product_id));
    Ok(report)
}

/// Adds differences to the counts, while the comparison still returns more of them.
struct Repairer {
    connection: PgConnection,
    /// The tables that are compared. A `rebuild` may swap in others, whose counts lack nothing.
    tables: Tables,
    /// Products, and what their counts and their hours lack.
    differences: Vec<(String, i64, i64)>,
}

/// The oids of likes, counts and hours.
type Tables = (i64, i64, i64);

impl Repairer {
    /// Waits for another repair: both would add the same differences. Its lock ends with the connection.
    async fn new(mut connection: PgConnection) -> anyhow::Result<Self> {
        let one = "SELECT pg_advisory_lock(hashtextextended('audit --repair', 0))";
        sqlx::query(one).execute(&mut connection).await.context("another audit repairs counts")?;
        let tables = Self::tables(&mut connection).await?;
        Ok(Self { connection, tables, differences: Vec::new() })
    }

    async fn tables(connection: &mut PgConnection) -> sqlx::Result<Tables> {
        let sql = "SELECT 'product_like'::regclass::oid::bigint, 'product_like_count'::regclass::oid::bigint,
                          'product_like_hour'::regclass::oid::bigint";
        sqlx::query_as(sql).fetch_one(connection).await
    }

    /// Adds to `report` what is repaired by it.
    async fn add(&mut self, product: &AuditedCount, report: &mut CountAudit) -> anyhow::Result<()> {
        let AuditedCount { product_id, expected, found, hours, .. } = product;
        self.differences.push((product_id.clone(), expected - found.unwrap_or(0), expected - hours));
        if self.differences.len() < REPAIRED { Ok(()) } else { self.flush(report).await }
    }

    /// Repairs in product order like a batch, so that the two don't deadlock.
    async fn flush(&mut self, report: &mut CountAudit) -> anyhow::Result<()> {
        self.differences.sort();
        let products: Vec<_> = self.differences.iter().map(|(product, ..)| product.as_str()).collect();
        let counts: Vec<_> = self.differences.iter().map(|(_, count, _)| *count).collect();
        let hours: Vec<_> = self.differences.iter().map(|(.., hours)| *hours).collect();
        let mut transaction = connection::beside_batches(&mut self.connection).await?;
        if Self::tables(&mut transaction).await? != self.tables {
            bail!("a rebuild has replaced the tables that were compared: run it again");
        }
        let sql = "INSERT INTO product_like_count AS old (product_id, like_count, delta_count, updated_at)
                   SELECT product_id, difference, 0, now()
                   FROM unnest($1::text[], $2::bigint[]) AS compared (product_id, difference) WHERE difference <> 0
                   ON CONFLICT (product_id) DO UPDATE
                   SET like_count = old.like_count + excluded.like_count, updated_at = excluded.updated_at";
        let repaired = sqlx::query(sql).bind(&products).bind(counts).execute(&mut *transaction).await?.rows_affected();
        let sql = "INSERT INTO product_like_hour AS old (hour, product_id, likes)
                   SELECT '-infinity', product_id, difference
                   FROM unnest($1::text[], $2::bigint[]) AS compared (product_id, difference) WHERE difference <> 0
                   ON CONFLICT (hour, product_id) DO UPDATE SET likes = old.likes + excluded.likes";
        let hours = sqlx::query(sql).bind(&products).bind(hours).execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        report.repaired += repaired;
        report.repaired_hours += hours;
        self.differences.clear();
        Ok(())
    }
}

impl AuditedCount {
    fn differs(&self) -> bool {
        self.found.unwrap_or(0) != self.expected
    }

    fn hours_differ(&self) -> bool {
        self.hours != self.expected
    }
}

impl CountAudit {
    fn take(&mut self, product: AuditedCount) {
        self.products += u64::from(product.found.is_none());
        let differs = product.differs() || product.hours_differ();
        self.differing += u64::from(product.differs());
        self.differing_hours += u64::from(product.hours_differ());
        self.negative += u64::from(!differs);
        let named = if differs { &mut self.differences } else { &mut self.negatives };
        if named.len() < LISTED {
            named.push(product);
        }
    }

    fn text(&self) -> String {
        let mut text = format!("products compared    {}\n", self.products);
        for (title, differing, repaired) in [
            ("counts that differ   ", self.differing, self.repaired),
            ("hours that differ    ", self.differing_hours, self.repaired_hours),
        ] {
            let repaired = if repaired > 0 { format!(", {repaired} of them repaired") } else { String::new() };
            let _ = writeln!(text, "{title}{differing}{repaired}");
        }
        let _ = writeln!(text, "counts below zero    {} (by delta events)", self.negative);
        for (title, products) in [("differ", &self.differences), ("are below zero", &self.negatives)] {
            if products.is_empty() {
                continue;
            }
            let first = if products.len() == LISTED { format!(", {LISTED} of them") } else { String::new() };
            let _ = writeln!(text, "\nproducts whose counts or hours {title}{first}:\n");
            let mut table = Table::new(&["product", "likers", "deltas", "expected", "found", "hours"]);
            for AuditedCount { product_id, likers, deltas, expected, found, hours } in products {
                table.row(&[product_id, likers, deltas, expected, &or_dash(*found), hours]);
            }
            text += &table.text();
            text.push('\n');
        }
        text
    }
}
