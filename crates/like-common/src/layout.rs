//! Reads `topic_layout`: the topics in the order in which they are folded.

use sqlx::{PgExecutor, Row};

/// One row of `topic_layout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The topic's place in the order of folding; the first part of a receipt.
    pub sequence: i32,
    pub topic: String,
    /// The number of partitions that the topic was made with.
    pub partitions: i32,
    /// The recorded end of each partition; None while producers may write to the topic.
    pub end_offsets: Option<Vec<i64>>,
}

/// Returns all topics, first to last.
pub async fn read_all(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Layout>> {
    let rows = sqlx::query("SELECT sequence, topic, partitions, end_offsets FROM topic_layout ORDER BY sequence")
        .fetch_all(executor)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Layout {
                sequence: row.try_get(0)?,
                topic: row.try_get(1)?,
                partitions: row.try_get(2)?,
                end_offsets: row.try_get(3)?,
            })
        })
        .collect()
}

/// Returns the row of `topic`; None if `like-aggregator setup` has not been run for it.
pub async fn read(executor: impl PgExecutor<'_>, topic: &str) -> sqlx::Result<Option<Layout>> {
    Ok(read_all(executor).await?.into_iter().find(|layout| layout.topic == topic))
}
