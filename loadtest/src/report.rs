//! What one drain has shown: as a line of JSON for later comparison, as a row of a table for people.

use serde::Serialize;

use crate::database::{StatementTime, Work};

/// A line of `drain.jsonl`. Processor time and memory are of the drain alone, start-up included
/// where a process has no earlier life.
#[derive(Serialize)]
pub struct Measured {
    /// When it was measured, RFC 3339.
    pub at: String,
    /// `DEDUP`.
    pub dedup: &'static str,
    /// users, or delta.
    pub events_of: &'static str,
    /// Events in the log.
    pub events: u64,
    /// Different products.
    pub products: u32,
    /// Different users.
    pub users: u32,
    /// Of the topic.
    pub partitions: i32,
    /// Aggregators that shared them.
    pub workers: usize,
    /// The log's seed.
    pub seed: u64,
    /// v7 or v8.
    pub event_ids: String,
    /// As given; null: like-aggregator's own.
    pub batch_max_events: Option<u32>,
    /// Of this machine, for all processes together.
    pub cores: usize,
    /// Version and durability.
    pub postgres: String,
    /// From the first committed batch to the log's end.
    pub seconds: f64,
    /// Events after that first batch, by seconds.
    pub events_per_second: f64,
    /// Seconds.
    pub aggregator_cpu_user: f64,
    /// Seconds.
    pub aggregator_cpu_system: f64,
    /// Most resident memory, MiB.
    pub aggregator_peak_mib: f64,
    /// Seconds of the aggregator's connection alone, not of checkpoints and WAL writer.
    pub postgres_cpu: Option<f64>,
    /// Seconds of the broker.
    pub kafka_cpu: Option<f64>,
    /// Written by the whole server, in 10^6 bytes.
    pub wal_mb: f64,
    /// SQL statements per 10,000 events.
    pub statements_per_10000: f64,
    /// The same and more by PostgreSQL's own figures, for the whole log.
    pub work: Work,
    /// On average.
    pub events_per_batch: f64,
    /// Repeats in the log.
    pub repeats: u64,
    /// Those of them that were recognised.
    pub repeats_dropped: u64,
    /// Whether every count is what it must be.
    pub exact: bool,
    /// Where asked for.
    pub slowest_statements: Vec<StatementTime>,
}

/// What all rows have in common, and the names of the columns.
pub fn print_heading(measured: &Measured) {
    let Measured { events, products, users, event_ids, cores, postgres, .. } = measured;
    println!(
        "{events} events, {products} products by Zipf's law, {users} users, {event_ids} ids; {cores} cores; {postgres}"
    );
    println!(
        "{:14} {:>9} {:>7} {:>8} {:>7} {:>6} {:>6} {:>6} {:>7} {:>6} {:>7} {:>15}  counts",
        "dedup, events",
        "events/s",
        "s",
        "cpu user",
        "system",
        "MiB",
        "pg cpu",
        "kafka",
        "WAL MB",
        "stmts",
        "batch",
        "repeats dropped"
    );
}

/// One row.
pub fn print_row(m: &Measured) {
    let cpu = |cpu: Option<f64>| cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.2}"));
    println!(
        "{:14} {:>9.0} {:>7.2} {:>8.2} {:>7.2} {:>6.1} {:>6} {:>6} {:>7.0} {:>6.1} {:>7.0} {:>15}  {}",
        format!("{} {}", m.dedup, m.events_of),
        m.events_per_second,
        m.seconds,
        m.aggregator_cpu_user,
        m.aggregator_cpu_system,
        m.aggregator_peak_mib,
        cpu(m.postgres_cpu),
        cpu(m.kafka_cpu),
        m.wal_mb,
        m.statements_per_10000,
        m.events_per_batch,
        format!("{} of {}", m.repeats_dropped, m.repeats),
        if !m.exact {
            "WRONG"
        } else if m.dedup == "history" {
            "exact"
        } else {
            "as exact as repeats allow"
        },
    );
    for StatementTime { ms, calls, rows, blocks, wal_bytes, text } in &m.slowest_statements {
        let (blocks, read) = blocks;
        println!(
            "  {ms:>8.0} ms {calls:>5} calls {rows:>8} rows {blocks:>9} blocks ({read} read) {:>5.0} MB WAL  {text:.90}",
            *wal_bytes as f64 / 1e6
        );
    }
}
