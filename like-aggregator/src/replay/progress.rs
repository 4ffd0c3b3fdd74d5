//! A replay's progress: one line that is rewritten on a terminal, a log line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::info;

/// How often the line is written over.
const REDRAW: Duration = Duration::from_millis(500);
/// How often a line is logged.
const LOG: Duration = Duration::from_secs(10);

/// How far a replay is, over all its topics and rounds.
pub(super) struct Progress {
    what: &'static str,
    start: Instant,
    terminal: bool,
    /// Offsets up to which all is to be folded, summed up.
    total: AtomicI64,
    /// Of these, folded.
    at: AtomicI64,
    folded: AtomicU64,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let (total, at, folded) = Default::default();
        Self { what, start: Instant::now(), terminal, total, at, folded }
    }

    /// A new goal, for what starts at the schema's first topic once more.
    pub(super) fn total(&self, offsets: i64) {
        self.total.store(offsets, Ordering::Relaxed);
        self.at.store(0, Ordering::Relaxed);
    }

    /// Adds offsets that were folded before.
    pub(super) fn found(&self, offsets: i64) {
        self.at.fetch_add(offsets, Ordering::Relaxed);
    }

    /// Adds committed offsets.
    pub(super) fn committed(&self, offsets: i64) {
        self.folded.fetch_add(offsets as u64, Ordering::Relaxed);
        self.at.fetch_add(offsets, Ordering::Relaxed);
    }

    pub(super) fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// Shows how it goes until `end` is there.
    pub(super) async fn show_until<T>(&self, end: impl Future<Output = T>) -> T {
        let mut end = std::pin::pin!(end);
        let mut drawn = false;
        loop {
            let every = if self.terminal { REDRAW } else { LOG };
            let Ok(ended) = tokio::time::timeout(every, &mut end).await else {
                if self.terminal {
                    // Over the line before, whatever its length.
                    let _ = write!(std::io::stderr(), "\r{}\u{1b}[K", self.line());
                    drawn = true;
                } else {
                    info!("{}", self.line());
                }
                continue;
            };
            if drawn {
                eprintln!("\r{}\u{1b}[K", self.line());
            }
            return ended;
        }
    }

    fn line(&self) -> String {
        let (total, at) = (self.total.load(Ordering::Relaxed), self.at.load(Ordering::Relaxed));
        let rate = self.folded() as f64 / self.start.elapsed().as_secs_f64();
        let left = match (total - at).max(0) as f64 / rate {
            seconds if seconds.is_finite() => format!("{} left", duration(seconds.ceil() as u64)),
            _ => "waiting".to_owned(),
        };
        let percent = 100.0 * at as f64 / total.max(1) as f64;
        format!("{}: {at} of {total} events ({percent:.0} %), {rate:.0} a second, {left}", self.what)
    }
}

fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_events_rate_and_estimated_end() {
        let progress = Progress {
            start: Instant::now().checked_sub(Duration::from_secs(10)).unwrap(),
            ..Progress::new("rebuild")
        };
        progress.total(100_000);
        progress.found(5_000);
        assert!(progress.line().ends_with("0 a second, waiting"), "{}", progress.line());
        progress.committed(10_000);
        let line = progress.line();
        assert!(line.starts_with("rebuild: 15000 of 100000 events (15 %), "), "{line}");
        assert!(line.ends_with("1 min 25 s left") || line.ends_with("1 min 26 s left"), "{line}");
        assert_eq!(duration(7_260), "2 h 1 min");
    }
}
