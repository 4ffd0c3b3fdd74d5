//! Fault tests of both services: they run as processes and get likes over HTTP while processes,
//! servers and connections are broken. At the end each scenario compares what was acknowledged with
//! what is counted: nothing lost, nothing counted twice.
//!
//! `make test-faults` runs every scenario; `tests/quick.rs`, a part of `make test`, runs their short
//! forms.

use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::FutureExt;
use like_testkit::Differences;
use rand::SeedableRng;
use rand::rngs::StdRng;

mod deltas;
mod echo;
pub mod scenarios;

/// Parameters of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The same seed gives the same requests and the same faults in the same order. The exact moment
    /// of a fault still depends on the machine.
    pub seed: u64,
    /// The short form: fewer faults and fewer users.
    pub quick: bool,
}

/// The result of a scenario.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Number of injected faults.
    pub faults: usize,
    /// Acknowledged requests and records of other producers.
    pub acknowledged: usize,
    /// Those of them whose first attempt had an unknown outcome.
    pub unsettled: usize,
    /// Events and likes that are missing or counted twice.
    pub differences: Differences,
}

pub struct Scenario {
    /// The name for `--only`.
    pub name: &'static str,
    /// The line in the table.
    pub what: &'static str,
    /// A panic is a failure.
    pub run: fn(Run) -> Pin<Box<dyn Future<Output = Outcome>>>,
}

/// A finished scenario.
pub struct Ended {
    pub scenario: &'static Scenario,
    /// None if it panicked.
    pub outcome: Option<Outcome>,
    pub took: Duration,
}

impl Run {
    /// A random number generator for `purpose`: the same seed gives the same numbers.
    pub fn dice(&self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(purpose))
    }

    /// Returns `quick` in the short form, else `full`.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Ended {
    /// Whether nothing was lost, counted twice or otherwise wrong.
    pub fn passed(&self) -> bool {
        self.outcome.is_some_and(|outcome| outcome.differences == Differences::default())
    }
}

/// Runs one scenario and catches its panic.
pub async fn run(scenario: &'static Scenario, run: Run) -> Ended {
    let start = Instant::now();
    let outcome = AssertUnwindSafe((scenario.run)(run)).catch_unwind().await.ok();
    Ended { scenario, outcome, took: start.elapsed() }
}

/// A Markdown table with one line per scenario.
pub fn table(ended: &[Ended]) -> String {
    let mut text =
        "| scenario | faults | acknowledged | retried | lost | counted twice | seconds | result |\n".to_owned();
    text += "|---|---|---|---|---|---|---|---|\n";
    for one in ended {
        let Ended { scenario, outcome, took } = one;
        let figures = outcome.map_or_else(
            || "- | - | - | - | -".to_owned(),
            |Outcome { faults, acknowledged, unsettled, differences: Differences { lost, doubled } }| {
                format!("{faults} | {acknowledged} | {unsettled} | {lost} | {doubled}")
            },
        );
        let verdict = if one.passed() { "ok" } else { "FAILED" };
        let _ = writeln!(text, "| {} | {figures} | {:.0} | {verdict} |", scenario.what, took.as_secs_f64());
    }
    text
}
