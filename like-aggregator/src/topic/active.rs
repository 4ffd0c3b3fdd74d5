//! The active topic: the one that is folded now. Topics are folded in the order of `topic_layout`, each to its end before
//! the next, or an older event would overwrite a user's newer one.
//!
//! Each transaction checks that: no batch goes past the recorded ends of a closed topic, and no batch is applied before all
//! earlier topics are closed and folded to their ends. So it doesn't matter when an aggregator notices that a topic was
//! closed.

use like_common::layout::{self, Layout};
use sqlx::PgConnection;

/// The condition that a topic `t` of the layout isn't folded to its recorded ends, or has none yet.
macro_rules! unfinished {
    () => {
        "t.end_offsets IS NULL OR EXISTS (
             SELECT FROM generate_series(1, t.partitions) AS p (number)
             LEFT JOIN kafka_offset o ON o.topic = t.topic AND o.partition = p.number - 1
             WHERE (t.held IS NULL OR p.number - 1 = ANY (t.held))
               AND (o.next_offset IS NULL OR o.next_offset < t.end_offsets[p.number]))"
    };
}

/// Returns the fold version, the fold settings, the recorded ends of topic $1, and whether a topic before it is unfinished.
pub const FOLD_AND_ACTIVE: &str = concat!(
    "SELECT fold_version, dedup, (extract(epoch FROM dedup_window) * 1000)::bigint, own.end_offsets, EXISTS (
         SELECT FROM topic_layout t WHERE t.sequence < own.sequence AND (",
    unfinished!(),
    ")) FROM fold LEFT JOIN topic_layout own ON own.topic = $1"
);

const CURRENT: &str = concat!("SELECT topic FROM topic_layout t WHERE ", unfinished!(), " ORDER BY sequence LIMIT 1");

/// Returns the active topic; None if all are closed and folded.
pub async fn current(connection: &mut PgConnection) -> sqlx::Result<Option<Layout>> {
    let topic: Option<String> = sqlx::query_scalar(CURRENT).fetch_optional(&mut *connection).await?;
    match topic {
        Some(topic) => layout::read(connection, &topic).await,
        None => Ok(None),
    }
}
