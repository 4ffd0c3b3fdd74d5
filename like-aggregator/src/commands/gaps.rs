//! The rows of `log_gap`, which `status` and `offsets show` list.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

/// A part of the log that was never folded.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogGap {
    /// None in a list of one topic's gaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    pub partition: i32,
    pub from_offset: i64,
    pub to_offset: i64,
    pub found_at: DateTime<Utc>,
}

pub async fn read(connection: &mut PgConnection, topic: Option<&str>) -> sqlx::Result<Vec<LogGap>> {
    let sql = "SELECT topic, partition, from_offset, to_offset, found_at FROM log_gap
               WHERE $1::text IS NULL OR topic = $1 ORDER BY 1, 2, 3";
    let rows: Vec<(String, i32, i64, i64, DateTime<Utc>)> =
        sqlx::query_as(sql).bind(topic).fetch_all(connection).await?;
    let gap = |(of, partition, from_offset, to_offset, found_at)| {
        let topic = topic.is_none().then_some(of);
        LogGap { topic, partition, from_offset, to_offset, found_at }
    };
    Ok(rows.into_iter().map(gap).collect())
}
