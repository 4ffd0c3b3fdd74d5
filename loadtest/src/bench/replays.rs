//! What `audit`, `audit --log` and `rebuild` take of memory and time beside a running aggregator, on
//! a log that is drained first: the memory must not grow with the log.

use std::time::{Duration, Instant};

use anyhow::ensure;
use like_testkit::process::{TestProcess, command};

use super::{Bench, Row, drain};
use crate::backlog::Mode;
use crate::row;
use crate::usage::peak_memory_mib;

/// Interval at which a command's memory is read: a shorter peak of a new maximum is in the next one.
const POLL: Duration = Duration::from_millis(10);
/// The tables must be right afterwards.
const COMMANDS: [&[&str]; 3] = [&["audit"], &["audit", "--log"], &["rebuild", "--yes"]];

/// A row for `run` and for each command.
pub async fn replays(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let backlog = drain::fill(bench, true).await?;
    let events = backlog.shape.events;
    let system = drain::system(&backlog).await;
    let start = Instant::now();
    let mut service = system.start_aggregator(&[]);
    drain::folded(&system, std::slice::from_mut(&mut service), events as i64).await?;
    let row = |command: &str, peak: f64, start: Instant| {
        row! { "events": events, "command": command, "peak_mib": peak, "seconds": start.elapsed().as_secs_f64() }
    };
    let mut rows = vec![row("run", peak_memory_mib(service.process.id())?, start)];
    for args in COMMANDS {
        let start = Instant::now();
        let mut process = TestProcess::start("command", command("like-aggregator", args, &system.settings()));
        let mut peak: f64 = 0.0;
        let status = loop {
            // Fails once the process has exited.
            peak = peak.max(peak_memory_mib(process.id()).unwrap_or_default());
            match process.status() {
                Some(status) => break status,
                None => tokio::time::sleep(POLL).await,
            }
        };
        ensure!(status.success(), "{args:?}: {status}: {}", process.log());
        backlog.check(&system.database, Mode::HistoryUser).await?;
        rows.push(row(&args.join(" "), peak, start));
    }
    Ok(rows)
}
