//! `topic_layout`: which topics there are, in the order in which they are folded.

use sqlx::{PgExecutor, Row};

/// One row of `topic_layout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Place of the topic in the order of folding; the first part of a receipt.
    pub sequence: i32,
    /// The topic's name.
    pub topic: String,
    /// How many partitions it was made with.
    pub partitions: i32,
    /// Per partition, the log's recorded end; None while producers may write there.
    pub end_offsets: Option<Vec<i64>>,
}

/// All topics, first to last.
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

/// The one named `topic`; None: `like-aggregator setup` has not been run for it.
pub async fn read(executor: impl PgExecutor<'_>, topic: &str) -> sqlx::Result<Option<Layout>> {
    Ok(read_all(executor).await?.into_iter().find(|layout| layout.topic == topic))
}
