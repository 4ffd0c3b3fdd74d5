//! `make bench`: the services beside what limits them, in one run. Each section returns the rows of
//! one table. Where a ratio matters, its two sides are measured one right after the other, in each
//! round, and the table has the medians.

pub mod drain;
pub mod floors;
pub mod freshness;
pub mod growth;
pub mod lists;
pub mod publish;
pub mod replays;
pub mod sender;
pub mod shedding;
pub mod streams;
pub mod tokens;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use like_events::topic::DEFAULT_PARTITIONS;
use like_testkit::{TestService, TestSystem};
use serde_json::Value;
use sqlx::PgPool;

pub use self::growth::GrowthOptions;
use crate::backlog::Mode;
use crate::events::Ids;

/// What every section needs to know.
#[derive(Debug, Clone)]
pub struct Bench {
    /// A few minutes instead of half an hour: smaller logs, fewer rounds.
    pub quick: bool,
    /// The broker's process.
    pub kafka_pid: u32,
    /// Its logs.
    pub kafka_data: PathBuf,
    /// For `drain`, `replays` and `growth`.
    pub backlog: BacklogOptions,
    pub growth: GrowthOptions,
}

/// The log that is drained.
#[derive(clap::Args, Debug, Clone)]
pub struct BacklogOptions {
    /// events in the log, repeats included [default: 1000000, with --quick 300000; growth: 100000, 20000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: Option<u64>,
    /// products in the log; likes are distributed by Zipf's law
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub products: u32,
    /// percentage of likes that go to one product in addition
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub hot_percent: u32,
    /// form of the event ids
    #[arg(long, value_enum, default_value = "v7")]
    pub ids: Ids,
    /// partitions of the topic
    #[arg(long, default_value_t = DEFAULT_PARTITIONS)]
    pub partitions: i32,
    /// aggregators that share the partitions
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// lanes of each, one row for each number, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    pub lanes: Vec<u16>,
    /// whether the index of users' likes exists (`setup --user-likes`), one row each, separated by commas [default: as `setup` makes it]
    #[arg(long, value_delimiter = ',', value_parser = ["on", "off"])]
    pub user_likes: Vec<String>,
    /// what to drain, separated by commas
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "history-user,history-delta,batch-user,batch-delta"
    )]
    pub modes: Vec<Mode>,
    /// seed of the generated events
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Figures by name, in the order of the columns.
pub type Row = serde_json::Map<String, Value>;

/// A [`Row`] of names and values.
#[macro_export]
macro_rules! row {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::bench::Row::from_iter([$(($name.to_owned(), serde_json::json!($value))),*])
    };
}

/// A new topic and database, after `setup`, without debug logs.
async fn system() -> TestSystem {
    let mut system = TestSystem::set_up(DEFAULT_PARTITIONS).await;
    system.set("RUST_LOG", "info");
    system
}

/// The public port of a service.
fn address(service: &TestService) -> anyhow::Result<SocketAddr> {
    service.url.strip_prefix("http://").context("not an http URL")?.parse().context("the service's address")
}

/// Writes out what is dirty, so that a measurement doesn't pay for what preceded it.
async fn checkpoint(pool: &PgPool) -> anyhow::Result<()> {
    sqlx::query("CHECKPOINT").execute(pool).await?;
    Ok(())
}

/// `full`, or `quick` in a quick run.
fn seconds(bench: &Bench, quick: u64, full: u64) -> Duration {
    Duration::from_secs(if bench.quick { quick } else { full })
}

/// The row of medians: numbers by name, everything else from the first row.
fn medians(rows: &[Row]) -> Row {
    let median_of = |name: &str| median(rows.iter().filter_map(|row| row.get(name)?.as_f64()));
    let cell = |(name, value): (&String, &Value)| {
        let value = if value.is_f64() { rounded(median_of(name)).into() } else { value.clone() };
        (name.clone(), value)
    };
    rows.first().map_or_else(Row::new, |first| first.iter().map(cell).collect())
}

/// The median; the mean of the two in the middle if the number of values is even; 0 without values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => f64::midpoint(values[(n - 1) / 2], values[n / 2]),
    }
}

/// The value that `percent` of the sorted values don't exceed; 0 without values.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Three significant digits below 100, none after the point above: the rest is noise.
pub fn rounded(value: f64) -> f64 {
    let digits = if value.abs() < 100.0 { 100.0 } else { 1.0 };
    (value * digits).round() / digits
}

/// A Markdown table of rows with the same columns.
pub fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let names: Vec<_> = first.keys().map(|name| name.replace('_', " ")).collect();
    let mut text = format!("| {} |\n|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let cells: Vec<_> = row.values().map(cell).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => thousands(number.as_f64().unwrap_or_default()),
        _ => "-".to_owned(),
    }
}

/// 1234567.0 as 1,234,567, and 1.50 as 1.5.
fn thousands(value: f64) -> String {
    if value.abs() < 1000.0 {
        return rounded(value).to_string();
    }
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.split_at(digits.len() - digits.trim_start_matches('-').len());
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{sign}{}", groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_rounded_numbers() {
        let rows = [row! { "mode": "a", "per_second": 149_348.4, "cpu_ms": 0.12, "failed": 0, "share": Value::Null }];
        let expected = "| mode | per second | cpu ms | failed | share |\n|---|---|---|---|---|\n\
                        | a | 149,348 | 0.12 | 0 | - |\n";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn medians_are_by_column() {
        let rows = [3.0, 1.0, 2.0].map(|rate| row! { "mode": "a", "rate": rate, "events": 10 });
        assert_eq!(medians(&rows), row! { "mode": "a", "rate": 2.0, "events": 10 });
    }
}
