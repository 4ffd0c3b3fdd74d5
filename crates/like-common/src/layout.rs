//! Reads `topic_layout`: the topics in the order in which they are folded.

use sqlx::PgExecutor;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The topic's place in the order of folding; the first part of a receipt.
    pub sequence: i32,
    pub topic: String,
    /// The number of partitions with which the topic was created.
    pub partitions: i32,
    /// The recorded end of each partition; None while producers may write to the topic.
    pub end_offsets: Option<Vec<i64>>,
}

/// Returns all topics, first to last.
pub async fn read_all(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Layout>> {
    let sql = "SELECT sequence, topic, partitions, end_offsets FROM topic_layout ORDER BY sequence";
    let rows: Vec<(i32, String, i32, Option<Vec<i64>>)> = sqlx::query_as(sql).fetch_all(executor).await?;
    let layout = |(sequence, topic, partitions, end_offsets)| Layout { sequence, topic, partitions, end_offsets };
    Ok(rows.into_iter().map(layout).collect())
}

/// Returns the row of `topic`; None if `like-aggregator setup` has not been run for it.
pub async fn read(executor: impl PgExecutor<'_>, topic: &str) -> sqlx::Result<Option<Layout>> {
    Ok(read_all(executor).await?.into_iter().find(|layout| layout.topic == topic))
}
