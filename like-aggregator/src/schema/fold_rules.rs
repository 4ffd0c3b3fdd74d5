//! The fold settings that `setup` has recorded in `fold`: where repeats are dropped, and how long event ids are remembered.
//! Every process takes them from there. A batch's fence compares them: see `apply`.

use std::fmt;
use std::time::Duration;

use like_common::cli::shown;
use sqlx::postgres::types::PgInterval;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::fold::Dedup;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldRules {
    pub is_history: bool,
    /// How long an event id is kept; also with `DEDUP=batch`, after which old ids are dropped.
    pub window: Duration,
}

impl FoldRules {
    pub const DEFAULT: Self = Self { is_history: true, window: Duration::from_hours(48) };

    /// Returns the rules for the columns `dedup` and `dedup_window`, the latter in milliseconds.
    pub fn stored(dedup: &str, window_ms: i64) -> Self {
        Self { is_history: dedup == HISTORY, window: Duration::from_millis(window_ms.cast_unsigned()) }
    }

    pub fn dedup(&self) -> Dedup {
        if self.is_history { Dedup::History(self.window) } else { Dedup::Batch }
    }

    /// The value of the column `dedup`.
    pub fn mode(&self) -> &'static str {
        if self.is_history { HISTORY } else { "batch" }
    }

    /// The value of the column `dedup_window`.
    pub fn interval(&self) -> PgInterval {
        interval(self.window)
    }
}

/// Returns a duration for SQL.
pub fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: duration.as_micros() as i64 }
}

impl fmt::Display for FoldRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DEDUP={} with DEDUP_WINDOW={}", self.mode(), shown(self.window))
    }
}

const HISTORY: &str = "history";

/// Returns the rules of a schema; None: `setup` has not recorded them.
pub async fn read(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Option<FoldRules>> {
    let sql = format!(
        "SELECT dedup, (extract(epoch FROM dedup_window) * 1000)::bigint FROM {schema}.fold WHERE dedup IS NOT NULL"
    );
    let row: Option<(String, i64)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(connection).await?;
    Ok(row.map(|(dedup, window)| FoldRules::stored(&dedup, window)))
}

/// Writes the rules of a schema. Live ones may change only while no batch is applied.
pub async fn write(connection: &mut PgConnection, schema: &str, rules: &FoldRules) -> sqlx::Result<()> {
    let sql = format!("UPDATE {schema}.fold SET dedup = $1, dedup_window = $2");
    let update = sqlx::query(AssertSqlSafe(sql)).bind(rules.mode()).bind(rules.interval());
    update.execute(connection).await.map(drop)
}
