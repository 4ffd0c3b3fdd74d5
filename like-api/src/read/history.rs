//! Likes that a product gained, by hour or by day. Concurrent reads share queries.

use chrono::TimeDelta;
use prometheus::Registry;
use sqlx::PgPool;

use crate::read::batcher::{BatchLimits, reads_per_query};
use crate::read::batchers::Batchers;
use crate::read::databases::{Databases, Place, Placed};
use crate::read::error::ReadError;
use crate::read::hours::Range;
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries;

/// The age from which like-aggregator may have summed hours to days (it waits one day more, for clocks that differ).
pub const HOURS_KEPT: TimeDelta = TimeDelta::days(35);

/// A year by days names some 9,000 rows, which takes PostgreSQL 5 ms. So few reads share a query, and the queries take
/// at most two connections of the pool.
const LIMITS: BatchLimits =
    BatchLimits { keys: 4, queries: 2, max_delay: std::time::Duration::from_millis(10), timeout: READ_TIMEOUT };

impl Placed for Range {
    fn place(&self) -> Place<'_> {
        Place::Of(&self.product)
    }
}

pub struct Histories {
    batchers: Batchers<Range, Vec<i64>>,
}

impl Histories {
    /// Reads from `databases` and registers its metric.
    pub fn new(databases: &Databases, registry: &Registry) -> Self {
        let help = "reads of likes over time that one query answered; as many observations as queries";
        let reads = reads_per_query(registry, "likes_history_query_reads", help);
        Self { batchers: Batchers::new(databases, LIMITS, &reads, query) }
    }

    /// Returns what the product gained in each hour or day of the range, in order.
    pub async fn read(&self, range: Range) -> Result<Vec<i64>, ReadError> {
        Ok(self.batchers.read([range]).await?.pop().unwrap_or_default())
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
