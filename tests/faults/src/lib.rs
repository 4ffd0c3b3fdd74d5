//! The fault suite: both services as real processes, driven through HTTP, while processes, servers and connections are
//! broken on purpose. At the end the acknowledged likes are compared with the counts: none lost, none doubled.
//!
//! `make test-faults` runs the scenarios, and with `--cluster` those of three brokers that take longer; `tests/quick.rs`, a part of
//! `make test`, runs short forms of some.

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

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The same seed gives the same clicks and the same faults in the same order. The exact moment of a fault still
    /// depends on the machine.
    pub seed: u64,
    /// The short form: fewer faults, fewer users.
    pub quick: bool,
}

/// The result of a scenario.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Faults carried out.
    pub faults: usize,
    /// Acknowledged requests, and acknowledged records of other producers.
    pub acknowledged: usize,
    /// Of those, the ones acknowledged after an attempt with an unknown outcome (504).
    pub unsettled: usize,
    /// Events lost and events counted twice.
    pub differences: Differences,
}

impl Outcome {
    /// The sum of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (one, two) = (self.differences, other.differences);
        Self {
            faults: self.faults + other.faults,
            acknowledged: self.acknowledged + other.acknowledged,
            unsettled: self.unsettled + other.unsettled,
            differences: Differences { lost: one.lost + two.lost, doubled: one.doubled + two.doubled },
        }
    }
}

/// A scenario.
pub struct Scenario {
    /// The name for `--only`.
    pub name: &'static str,
    /// The table's text.
    pub what: &'static str,
    /// Runs the scenario; a panic is a failure.
    pub run: fn(Run) -> Pin<Box<dyn Future<Output = Outcome>>>,
}

/// A scenario that has run.
pub struct Ended {
    pub scenario: &'static Scenario,
    /// None after a panic.
    pub outcome: Option<Outcome>,
    pub took: Duration,
}

impl Run {
    /// A random generator, the same for the same seed and `purpose`.
    pub fn dice(&self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(purpose))
    }

    /// Returns the value for the short or for the full form.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Ended {
    /// Whether nothing was lost or doubled, and nothing panicked.
    pub fn passed(&self) -> bool {
        self.outcome.is_some_and(|outcome| outcome.differences == Differences::default())
    }
}

/// Runs one scenario; a panic in it is caught.
pub async fn run(scenario: &'static Scenario, run: Run) -> Ended {
    let start = Instant::now();
    let outcome = AssertUnwindSafe((scenario.run)(run)).catch_unwind().await.ok();
    Ended { scenario, outcome, took: start.elapsed() }
}

/// The results as a Markdown table.
pub fn table(ended: &[Ended]) -> String {
    let mut text = "| scenario | faults | acknowledged | unsettled first | lost | doubled | s | |\n".to_owned();
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
