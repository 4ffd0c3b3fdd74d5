//! Hours and days, of UTC, in which likes are summed.

use chrono::{DateTime, TimeDelta, Utc};

pub const HOUR: TimeDelta = TimeDelta::hours(1);
pub const DAY: TimeDelta = TimeDelta::days(1);

/// Returns the begin of the hour or day (`step`) that contains `at`.
pub fn begin(at: DateTime<Utc>, step: TimeDelta) -> DateTime<Utc> {
    let seconds = at.timestamp() - at.timestamp().rem_euclid(step.num_seconds());
    DateTime::from_timestamp(seconds, 0).expect("not after a valid time, and days begin with the first of them")
}
