//! Which topic is folded now. Every fold takes the topics in the order of `topic_layout`, the whole
//! of one before the next, or a user's later wish would be overtaken by an earlier one.
//!
//! Each worker sees to that by itself, whenever it writes: once a topic is closed, no batch goes
//! beyond its recorded ends, and no batch of a topic is taken before all earlier ones are closed
//! and folded to their ends. So it doesn't matter when an aggregator notices that a topic was
//! closed, nor what others do meanwhile.

use like_common::layout::{self, Layout};
use sqlx::PgConnection;

use crate::apply::transaction::ApplyError;

/// Whether a topic `t` of the layout isn't folded to its recorded ends, or has none yet.
macro_rules! unfinished {
    () => {
        "t.end_offsets IS NULL OR EXISTS (
             SELECT FROM generate_series(1, t.partitions) AS p (number)
             LEFT JOIN kafka_offset o ON o.topic = t.topic AND o.partition = p.number - 1
             WHERE o.next_offset IS NULL OR o.next_offset < t.end_offsets[p.number])"
    };
}

/// The fold version, the recorded ends of topic $1, and whether a topic before it is unfinished.
pub const FOLD_AND_TURN: &str = concat!(
    "SELECT fold_version, own.end_offsets, EXISTS (
         SELECT FROM topic_layout t WHERE t.sequence < own.sequence AND (",
    unfinished!(),
    ")) FROM fold LEFT JOIN topic_layout own ON own.topic = $1"
);

const CURRENT: &str = concat!("SELECT topic FROM topic_layout t WHERE ", unfinished!(), " ORDER BY sequence LIMIT 1");

/// The topic whose turn it is; None: all are closed and folded.
pub async fn current(connection: &mut PgConnection) -> sqlx::Result<Option<Layout>> {
    let topic: Option<String> = sqlx::query_scalar(CURRENT).fetch_optional(&mut *connection).await?;
    match topic {
        Some(topic) => layout::read(connection, &topic).await,
        None => Ok(None),
    }
}

/// Whether a worker has ended because it isn't its topic's turn.
pub fn is_over(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ApplyError::OutOfTurn { .. }))
}
