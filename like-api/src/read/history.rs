//! Likes that a product gained, by hour or by day. Concurrent reads share queries.

use chrono::{DateTime, TimeDelta, Utc};
use like_events::ProductId;
use prometheus::Registry;
use sqlx::PgPool;

use crate::read::batcher::{BatchLimits, Batcher, reads_per_query};
use crate::read::error::ReadError;
use crate::read::hours::{self, DAY, HOUR};
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries;

/// The age from which like-aggregator may have summed hours to days (it waits one day more, for clocks that differ).
pub const HOURS_KEPT: TimeDelta = TimeDelta::days(35);

/// A year by days names some 9,000 rows, which takes PostgreSQL 5 ms. So few reads share a query, and the queries take
/// at most two connections of the pool.
const LIMITS: BatchLimits =
    BatchLimits { keys: 4, queries: 2, max_delay: std::time::Duration::from_millis(10), timeout: READ_TIMEOUT };

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

/// What a read asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    pub product: ProductId,
    pub step: Step,
    /// The begin of the first hour or day.
    first: DateTime<Utc>,
    points: usize,
}

impl Range {
    /// Every hour or day that overlaps with the time from `from` to `to`, which is later.
    pub fn new(product: ProductId, step: Step, from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        let first = hours::begin(from, step.delta());
        let last = hours::begin(to - TimeDelta::nanoseconds(1), step.delta());
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

pub struct Histories {
    batcher: Batcher<Range, Vec<i64>>,
}

impl Histories {
    /// Reads through `pool` and registers its metric.
    pub fn new(pool: PgPool, registry: &Registry) -> Self {
        let help = "reads of likes over time that one query answered; as many observations as queries";
        let reads = reads_per_query(registry, "likes_history_query_reads", help);
        Self { batcher: Batcher::new(LIMITS, reads, move |ranges| query(pool.clone(), ranges)) }
    }

    /// Returns what the product gained in each hour or day of the range, in order.
    pub async fn read(&self, range: Range) -> Result<Vec<i64>, ReadError> {
        Ok(self.batcher.read([range]).await?.pop().unwrap_or_default())
    }
}

async fn query(pool: PgPool, ranges: Vec<Range>) -> Result<Vec<Vec<i64>>, ReadError> {
    let mut gained: Vec<Vec<i64>> = ranges.iter().map(|range| vec![0; range.points]).collect();
    for (place, hour, likes) in queries::hours(&pool, &ranges).await? {
        let range = &ranges[place];
        let point = (hour - range.first).num_seconds() / range.step.delta().num_seconds();
        gained[place][point as usize] += likes;
    }
    Ok(gained)
}
