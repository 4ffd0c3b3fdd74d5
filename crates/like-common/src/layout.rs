//! Reads `topic_layout`: the topics in the order in which they are folded.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The topic's place in the order of folding; the first part of a receipt.
    pub sequence: i32,
    pub topic: String,
    /// The number of partitions with which the topic was created.
    pub partitions: i32,
    /// Whether `topics close` has fenced the topic's producers.
    pub closing: bool,
    /// The recorded end of each partition; None while producers may write to the topic.
    pub end_offsets: Option<Vec<i64>>,
    /// Per partition, up to where records past the recorded end were published again.
    pub republished_to: Option<Vec<i64>>,
    /// Since when keys give time-ordered event ids, by `fold`: the same for all topics.
    pub time_ordered_ids_from: Option<DateTime<Utc>>,
}

type Row = (i32, String, i32, bool, Option<Vec<i64>>, Option<Vec<i64>>, Option<DateTime<Utc>>);

/// Returns all topics, first to last.
pub async fn read_all(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Layout>> {
    let sql = "SELECT sequence, topic, partitions, closing, end_offsets, republished_to, time_ordered_ids_from
               FROM topic_layout LEFT JOIN fold ON true ORDER BY sequence";
    let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(executor).await?;
    let layout = |(sequence, topic, partitions, closing, end_offsets, republished_to, time_ordered_ids_from)| Layout {
        sequence,
        topic,
        partitions,
        closing,
        end_offsets,
        republished_to,
        time_ordered_ids_from,
    };
    Ok(rows.into_iter().map(layout).collect())
}

/// Returns the row of `topic`; None if `like-aggregator setup` has not been run for it.
pub async fn read(executor: impl PgExecutor<'_>, topic: &str) -> sqlx::Result<Option<Layout>> {
    Ok(read_all(executor).await?.into_iter().find(|layout| layout.topic == topic))
}
