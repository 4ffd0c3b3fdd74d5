//! Hours and days, of UTC, in which likes are summed, and ranges of them.

use chrono::{DateTime, TimeDelta, Utc};
use like_events::ProductId;

pub const HOUR: TimeDelta = TimeDelta::hours(1);
pub const DAY: TimeDelta = TimeDelta::days(1);

/// Returns the begin of the hour or day (`step`) that contains `at`.
pub fn begin(at: DateTime<Utc>, step: TimeDelta) -> DateTime<Utc> {
    let seconds = at.timestamp() - at.timestamp().rem_euclid(step.num_seconds());
    DateTime::from_timestamp(seconds, 0).expect("not after a valid time, and days begin with the first of them")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Hour,
    Day,
}

impl Step {
    pub const NAMES: [(&str, Self); 2] = [("hour", Self::Hour), ("day", Self::Day)];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }

    pub fn delta(self) -> TimeDelta {
        if self == Self::Hour { HOUR } else { DAY }
    }

    /// The longest range, of which a point each is answered.
    pub fn longest(self) -> TimeDelta {
        TimeDelta::days(if self == Self::Hour { 31 } else { 366 })
    }
}

/// The hours or days of a product that a chart shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    pub product: ProductId,
    pub step: Step,
    /// The begin of the first hour or day.
    pub first: DateTime<Utc>,
    pub points: usize,
}

impl Range {
    /// Every hour or day that overlaps with the time from `from` to `to`, which is later.
    pub fn new(product: ProductId, step: Step, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let first = begin(from, step.delta());
        let last = begin(to - TimeDelta::nanoseconds(1), step.delta());
        let points = (last - first).num_seconds() / step.delta().num_seconds() + 1;
        Self { product, step, first, points: points as usize }
    }

    /// The begins of the hours or days, in order.
    pub fn times(&self) -> impl Iterator<Item = DateTime<Utc>> {
        (0..self.points as i32).map(|n| self.first + self.step.delta() * n)
    }

    /// The first and the last hour.
    pub fn hours(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        (self.first, self.first + self.step.delta() * self.points as i32 - HOUR)
    }
}
