//! The promise, tried: both services as real processes, driven through HTTP, while processes,
//! servers and connections are broken on purpose. At the end what was acknowledged is compared
//! with what is counted: nothing lost, nothing doubled.
//!
//! `make test-faults` runs every scenario; `tests/quick.rs`, a part of `make test`, runs a short
//! form of those that need few minutes.

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

/// How a scenario is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The same seed gives the same wishes and the same choice of faults, in the same order. (Where
    /// exactly a fault hits still depends on the machine.)
    pub seed: u64,
    /// A short form: fewer faults, a smaller crowd.
    pub quick: bool,
}

/// What a scenario did, and what came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Kills, stops, cuts and the like that were carried out.
    pub faults: usize,
    /// Requests, and records of other producers, that were acknowledged.
    pub acknowledged: usize,
    /// Of those, how many were acknowledged only after an attempt whose outcome stayed unknown.
    pub unsettled: usize,
    /// What is missing in the end, or is there too often.
    pub differences: Differences,
}

/// A scenario.
pub struct Scenario {
    /// How it is asked for.
    pub name: &'static str,
    /// One line for the table.
    pub what: &'static str,
    /// Runs it. A panic is a failure too.
    pub run: fn(Run) -> Pin<Box<dyn Future<Output = Outcome>>>,
}

/// How a scenario ended.
pub struct Ended {
    /// Which one.
    pub scenario: &'static Scenario,
    /// None: it panicked.
    pub outcome: Option<Outcome>,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    /// Dice that fall alike for the same seed and the same `purpose`.
    pub fn dice(&self, purpose: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(purpose))
    }

    /// The one value for the short form, the other for the whole.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Ended {
    /// Whether nothing was lost, nothing doubled, and nothing else was wrong.
    pub fn passed(&self) -> bool {
        self.outcome.is_some_and(|outcome| outcome.differences == Differences::default())
    }
}

/// Runs one scenario to its end, however it ends.
pub async fn run(scenario: &'static Scenario, run: Run) -> Ended {
    let start = Instant::now();
    let outcome = AssertUnwindSafe((scenario.run)(run)).catch_unwind().await.ok();
    Ended { scenario, outcome, took: start.elapsed() }
}

/// The table at the end: one line per scenario.
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
