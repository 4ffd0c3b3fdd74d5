//! The run's tables, as text that is Markdown too: what was drained and what limits it, the rest
//! row by row, and the targets.

use std::fmt::Write;

use serde_json::Value;

use super::ledger::Ledger;
use super::{Figures, targets};

const RATE: &str = "events_per_second";

/// The two halves of the page, each about a service and written once all of its steps are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Draining, and what limits it.
    Aggregator,
    /// Likes and reads over HTTP.
    Api,
}

impl Half {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Aggregator, Self::Api];

    /// Whose it is.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aggregator => "like-aggregator",
            Self::Api => "like-api",
        }
    }

    /// That a step belongs to.
    pub fn of(step: &str) -> Self {
        let api = ["memory/likes", "freshness", "publish", "tokens", "shedding", "streams"];
        if api.iter().any(|prefix| step.starts_with(prefix)) { Self::Api } else { Self::Aggregator }
    }
}

/// A half's tables of what the ledger holds.
pub fn tables(ledger: &Ledger, half: Half) -> String {
    let mut text = String::new();
    if half == Half::Aggregator {
        drains(&mut text, ledger);
    }
    let sections = [
        ("Two workers on these two cores (the clock starts when both have a batch ready)", "workers", &WORKERS[..]),
        ("Nine tenths of the likes on one product", "hot", &BRIEF),
        ("Into a database that holds 10 million likes and their history", "prefilled", &BRIEF),
        ("Growth: history-user, one worker", "growth", &GROWTH),
        ("Memory of like-aggregator with nothing to do", "memory/idle", &["aggregator_idle_mib"]),
        ("Publishing: like-api beside a bare axum route, by turns", "publish", &PUBLISH),
        ("Tokens: verifying one, and finding it verified", "tokens", &TOKENS),
        (
            "Shedding: once, twice and three times the likes that can be borne, and the same without",
            "shedding",
            &SHEDDING,
        ),
        ("Live counts: open streams on one replica, each of 10 products, 1 second between looks", "streams", &STREAMS),
        ("Freshness: from the 202 to the first read that shows the like counted", "freshness", &FRESHNESS),
        ("Memory of both services, idle and under likes", "memory/likes", &MEMORY),
    ];
    for (title, prefix, columns) in sections.into_iter().filter(|(_, prefix, _)| Half::of(prefix) == half) {
        rows(&mut text, title, &ledger.rows(prefix), columns);
    }
    wanted(&mut text, ledger, half);
    text
}

const WORKERS: [&str; 5] = ["mode", "workers", RATE, "cpu_seconds_per_million", "peak_mib"];
const BRIEF: [&str; 5] = ["mode", RATE, "cpu_seconds_per_million", "wal_mb_per_100000", "peak_mib"];
const MEMORY: [&str; 8] = [
    "connections",
    "products",
    "per_second",
    "api_idle_mib",
    "api_mib",
    "api_peak_mib",
    "aggregator_idle_mib",
    "aggregator_peak_mib",
];
const FRESHNESS: [&str; 8] = [
    "rate",
    "per_second",
    "watched",
    "never_seen",
    "fresh_p50_ms",
    "fresh_p99_ms",
    "look_gap_p99_ms",
    "acknowledged_p99_ms",
];
const PUBLISH: [&str; 9] =
    ["load", "service", "per_second", "cpu_us", "cpu_ratio", "p50_ms", "p99_ms", "rss_mib", "failed"];
const TOKENS: [&str; 4] = ["algorithm", "token_bytes", "verify_us", "cached_us"];
const SHEDDING: [&str; 11] = [
    "load",
    "shedding",
    "offered_per_second",
    "unsent_per_second",
    "accepted_per_second",
    "accepted_percent_of_bearable",
    "shed_per_second",
    "accepted_p50_ms",
    "accepted_p99_ms",
    "api_cpu_percent",
    "other_failures",
];
const STREAMS: [&str; 11] = [
    "streams",
    "products",
    "changes_per_second",
    "sent_per_second",
    "queries_per_second",
    "statements_per_second",
    "api_cpu_percent",
    "query_ms",
    "api_idle_mib",
    "api_mib",
    "kib_per_stream",
];
const GROWTH: [&str; 7] = ["events", "products", "partitions", "seconds", RATE, "cpu_seconds_per_million", "peak_mib"];

/// The four modes beside their floors; medians of the rounds.
fn drains(text: &mut String, ledger: &Ledger) {
    let heading = [
        "mode",
        "drain, events/s",
        "(a) consuming alone",
        "(b) SQL from memory",
        "of the slower",
        "times (c)",
        "CPU s a million",
        "peak MiB",
        "statements per 10,000",
        "transactions per 100,000",
        "WAL MB per 100,000",
    ];
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    for mode in ["history-user", "history-delta", "batch-user", "batch-delta"] {
        let drain = format!("drain/{mode}");
        let show = |prefix: &str, name: &str| ledger.median(prefix, name).map_or("-".to_owned(), number);
        let times = ledger.ratio((&drain, RATE), ("one-by-one", RATE));
        table.push(vec![
            mode.to_owned(),
            show(&drain, RATE),
            show(&format!("consume/{mode}"), RATE),
            show(&format!("from-memory/{mode}"), RATE),
            targets::share_of_floor(ledger, mode).map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
            times.map_or("-".to_owned(), |times| format!("{times:.0}")),
            show(&drain, "cpu_seconds_per_million"),
            show(&drain, "peak_mib"),
            show(&drain, "statements_per_10000"),
            show(&drain, "postgres_transactions_per_100000"),
            show(&drain, "wal_mb_per_100000"),
        ]);
    }
    let (events, rounds) = (ledger.median("drain", "events"), ledger.rows("drain/history-user").len());
    let (Some(events), Some(each)) = (events, ledger.median("one-by-one", RATE)) else { return };
    let _ = writeln!(
        text,
        "**Draining {} events** (1,000 products by Zipf's law, {} users, 70 % likes, 1 % repeats; one worker; the \
         median of {rounds} rounds). (c), one UPDATE and one transaction per event, does {} events a second.\n",
        number(events),
        number(events / 10.0),
        number(each)
    );
    markdown(text, &table);
}

/// A table of the figures as they are, one row for each.
fn rows(text: &mut String, title: &str, rows: &[&Figures], columns: &[&str]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "**{title}**\n");
    let mut table = vec![columns.iter().map(|column| column.replace('_', " ")).collect::<Vec<_>>()];
    for row in rows {
        table.push(columns.iter().map(|column| row.get(*column).map_or("-".to_owned(), value)).collect());
    }
    markdown(text, &table);
}

fn wanted(text: &mut String, ledger: &Ledger, half: Half) {
    let all = targets::of(ledger, half);
    if all.iter().all(|target| target.measured.is_none()) {
        return;
    }
    let mut table = vec![["target", "wanted", "measured", ""].map(str::to_owned).to_vec()];
    for target in &all {
        let (measured, reached) = match target.measured {
            None => ("-".to_owned(), "not measured"),
            Some(measured) => (number(measured), if target.reached { "reached" } else { "**missed**" }),
        };
        table.push(vec![target.what.clone(), target.wanted.clone(), measured, reached.to_owned()]);
    }
    let _ = writeln!(text, "**Targets**\n");
    markdown(text, &table);
}

/// A table whose columns line up as plain text; the first row is the heading.
fn markdown(text: &mut String, table: &[Vec<String>]) {
    let columns = table[0].len();
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..columns).map(|column| width(column).max(3)).collect();
    let numeric =
        |column: usize| table[1..].iter().all(|row| row[column].starts_with(|c: char| c.is_ascii_digit() || c == '-'));
    for (number, row) in table.iter().enumerate() {
        for ((column, cell), width) in row.iter().enumerate().zip(&widths) {
            let padding = " ".repeat(width - cell.chars().count());
            let _ =
                if numeric(column) { write!(text, "| {padding}{cell} ") } else { write!(text, "| {cell}{padding} ") };
        }
        let _ = writeln!(text, "|");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = write!(text, "|{}{}", "-".repeat(width + 1), if numeric(column) { ":" } else { "-" });
            }
            let _ = writeln!(text, "|");
        }
    }
    text.push('\n');
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Number(n) => number(n.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// Three significant digits or whole, thousands apart.
pub fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let digits = if value.abs() < 10.0 { 2 } else { 1 };
        let text = format!("{value:.digits$}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 && digit != '-' {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        let shown = [0.0, 0.12, 1.5, 10.0, 64.26, 149.0, 1_000.0, 149_348.4, 1_589_184.0].map(number);
        assert_eq!(shown, ["0", "0.12", "1.5", "10", "64.3", "149", "1,000", "149,348", "1,589,184"]);
    }
}
