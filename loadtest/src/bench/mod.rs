//! `make bench`: what the services do, beside what limits them, in one run. A *step* measures one
//! thing once and leaves rows of figures in the ledger; where a ratio matters, its two sides are
//! steps of the same round, one right after the other, and the summary takes the median round.

pub mod chart;
pub mod draining;
pub mod floors;
pub mod ledger;
pub mod logs;
pub mod prefill;
pub mod steps;
pub mod summary;
pub mod targets;

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::drain::Place;

/// What a step has measured: names in the order in which they are shown, units in the names.
pub type Figures = Map<String, Value>;

/// The servers, the programs, and how much is asked for.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Kafka, PostgreSQL, like-aggregator, and where logs go.
    pub place: Place,
    /// The folder of the services' programs.
    pub programs: PathBuf,
    /// A few minutes instead of the better part of an hour: smaller logs, one round.
    pub quick: bool,
}

/// Figures from pairs.
pub fn figures<const N: usize>(pairs: [(&str, Value); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Rounded to three significant digits or to whole numbers: what a measurement on a shared
/// machine is worth.
pub fn rounded(value: f64) -> Value {
    if value == 0.0 || !value.is_finite() {
        return Value::from(0);
    }
    let digits = (2 - value.abs().log10().floor() as i32).max(0);
    let scale = 10_f64.powi(digits);
    let rounded = (value * scale).round() / scale;
    if digits == 0 { Value::from(rounded as i64) } else { Value::from(rounded) }
}
