//! The progress of long work: on a terminal one line that is overwritten, elsewhere a log line every ten seconds. Short
//! work shows nothing.
//!
//! Not by `indicatif`: off a terminal it draws nothing, so the log line and its estimate would remain, and on a terminal
//! they are drawn by a single write.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;
use tracing::info;

const REDRAW: Duration = Duration::from_millis(500);
const LOG: Duration = Duration::from_secs(10);

/// Shown by a task of its own until it is dropped.
pub struct Progress {
    counts: Arc<Counts>,
    _task: AbortOnDropHandle<()>,
}

struct Counts {
    /// What is counted, such as "rows checked".
    what: &'static str,
    total: Option<u64>,
    start: Instant,
    at: AtomicU64,
    /// The part of `at` that was done since `start`.
    done: AtomicU64,
    drawn: AtomicBool,
}

impl Progress {
    /// Starts at 0 of `total`, if that is known. To be called within a runtime.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        let counts = Arc::new(Counts::new(what, total));
        let task = tokio::spawn(show(Arc::clone(&counts)));
        Self { counts, _task: AbortOnDropHandle::new(task) }
    }

    /// Returns the total, or 0 if it is unknown.
    pub fn total(&self) -> u64 {
        self.counts.total.unwrap_or_default()
    }

    /// Adds what was done before the start.
    pub fn found(&self, count: u64) {
        self.counts.at.fetch_add(count, Relaxed);
    }

    pub fn add(&self, count: u64) {
        self.counts.at.fetch_add(count, Relaxed);
        self.counts.done.fetch_add(count, Relaxed);
    }

    /// Advances to `count`, unless it is there already.
    pub fn reach(&self, count: u64) {
        self.add(count.saturating_sub(self.counts.at.load(Relaxed)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.counts.drawn.load(Relaxed) {
            self.counts.draw("\n");
        }
    }
}

async fn show(counts: Arc<Counts>) {
    let terminal = io::stderr().is_terminal();
    loop {
        tokio::time::sleep(if terminal { REDRAW } else { LOG }).await;
        if terminal { counts.draw("") } else { info!("{}", counts.line()) }
    }
}

impl Counts {
    fn new(what: &'static str, total: Option<u64>) -> Self {
        let (at, done, drawn) = Default::default();
        Self { what, total, start: Instant::now(), at, done, drawn }
    }

    fn draw(&self, end: &str) {
        self.drawn.store(true, Relaxed);
        // Clears the line before, whatever its length. stderr may be closed.
        let _ = write!(io::stderr(), "\r{}\u{1b}[K{end}", self.line());
    }

    fn line(&self) -> String {
        let (what, at) = (self.what, self.at.load(Relaxed));
        let rate = self.done.load(Relaxed) as f64 / self.start.elapsed().as_secs_f64();
        let Some(total) = self.total else {
            return format!("{at} {what}, {rate:.0} a second");
        };
        let left = match total.saturating_sub(at) as f64 / rate {
            seconds if seconds.is_finite() => {
                format!("{} left", humantime::format_duration(Duration::from_secs(seconds.ceil() as u64)))
            }
            _ => "waiting".to_owned(),
        };
        let percent = 100.0 * at as f64 / total.max(1) as f64;
        format!("{at} of {total} {what} ({percent:.0} %), {rate:.0} a second, {left}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_count_rate_and_estimated_end() {
        let start = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let counts = Counts { start, ..Counts::new("events folded", Some(100_000)) };
        counts.at.store(5_000, Relaxed);
        assert!(counts.line().ends_with("0 a second, waiting"), "{}", counts.line());
        counts.at.store(15_000, Relaxed);
        counts.done.store(10_000, Relaxed);
        let line = counts.line();
        assert!(line.starts_with("15000 of 100000 events folded (15 %), "), "{line}");
        assert!(line.ends_with("1m 25s left") || line.ends_with("1m 26s left"), "{line}");
        assert!(Counts { start, ..Counts::new("rows checked", None) }.line().starts_with("0 rows checked, 0 a second"));
    }
}
