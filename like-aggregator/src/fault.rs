//! Points at which a test kills or stops this process; a signal from outside would arrive at random. Only builds with the
//! feature `fault-points` have them, and release builds with it don't compile; in all others [`reached`] is empty.
//!
//! Not by the `fail` crate: it runs panics, pauses and callbacks, so the signal at the nth time would still be code here.
//!
//! `FAULT_POINT=name[:nth[:stop]]`: at the nth time (default 1) that the point is reached the process
//! gets SIGKILL, or SIGSTOP.

/// The points, by their names in `FAULT_POINT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "fault-points", derive(clap::ValueEnum))]
pub enum Point {
    /// `after-begin`: between BEGIN and the first statement.
    AfterBegin,
    /// `before-commit`: between the last statement of a batch and COMMIT.
    BeforeCommit,
    /// `after-commit`: the transaction is committed, and only PostgreSQL knows it.
    AfterCommit,
    /// `between-batches`: before the first statement of a batch.
    BetweenBatches,
}

#[cfg(not(feature = "fault-points"))]
#[inline]
pub fn reached(_: Point) {}

/// Sends the signal if `FAULT_POINT` names this point.
#[cfg(feature = "fault-points")]
pub fn reached(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: OnceLock<Option<(Point, u64, rustix::process::Signal)>> = OnceLock::new();
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let Some((asked, nth, signal)) = ASKED.get_or_init(|| std::env::var("FAULT_POINT").ok().map(|text| parse(&text)))
    else {
        return;
    };
    if *asked == point && TIMES.fetch_add(1, Ordering::Relaxed) + 1 == *nth {
        tracing::warn!(?point, nth, ?signal, "fault point");
        // Logging never waits, and a stopped process writes nothing.
        like_common::telemetry::flush();
        let _ = rustix::process::kill_process(rustix::process::getpid(), *signal);
        // Another thread may take the signal first.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[cfg(feature = "fault-points")]
fn parse(text: &str) -> (Point, u64, rustix::process::Signal) {
    use clap::ValueEnum;
    use rustix::process::Signal;

    let mut parts = text.split(':');
    let point = Point::from_str(parts.next().unwrap_or_default(), false);
    let point = point.unwrap_or_else(|_| panic!("FAULT_POINT={text}: no such point"));
    let nth = parts.next().map_or(1, |nth| nth.parse().unwrap_or_else(|e| panic!("FAULT_POINT={text}: {e}")));
    match parts.next() {
        None => (point, nth, Signal::KILL),
        Some("stop") => (point, nth, Signal::STOP),
        Some(_) => panic!("FAULT_POINT={text}: only stop can follow"),
    }
}
