//! Why a batch was not applied, and whether trying again may help.

use like_common::database;

use crate::fold::batch::FOLD_VERSION;

/// Why a batch was not applied. Nothing of it was written, unless the answer to COMMIT was lost: then the next attempt is
/// fenced.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The stored offset differs from the one where the batch begins: another process has moved it.
    #[error("partition {partition} has the stored offset {found}, expected {believed}: another worker has written")]
    Fenced {
        /// The first such partition.
        partition: i32,
        /// The offset where the batch begins.
        believed: i64,
        /// The stored offset, or -1 when the row is gone.
        found: i64,
    },
    /// The database is folded by other rules than this build's. `found` is -1 when the table is empty.
    #[error(
        "the database holds fold version {found} and this build folds by {FOLD_VERSION}: run a build of that version, or `rebuild` with this one"
    )]
    FoldVersion { found: i32 },
    /// The topic is not the active one: it was closed before the batch's end, or an earlier topic isn't folded to its end.
    #[error("topic {topic} is not the one to be folded now: topic_layout has changed")]
    InactiveTopic { topic: String },
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A user's like changed during the batch, although this worker owns the partition: a producer sends one product to two
    /// partitions. The next attempt reads the new state.
    #[error("a like changed during the batch: a producer does not partition its records as the contract says")]
    Raced,
    /// The client-side deadline has passed.
    #[error("no answer from PostgreSQL in time")]
    Deadline,
}

impl ApplyError {
    /// Whether the same batch may succeed on a new connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deadline | Self::Raced => true,
            // 23505: another worker has written one of the rows; the next attempt finds it.
            // 23514: no window covers a record's time; the next attempt creates it.
            Self::Sql(e) => {
                database::is_transient(e)
                    || match database::sqlstate(e).as_deref() {
                        Some("23505") => names_table(e, "event_handled") || names_table(e, "product_like"),
                        Some("23514") => names_table(e, "event_handled"),
                        _ => false,
                    }
            }
            Self::Fenced { .. } | Self::FoldVersion { .. } | Self::InactiveTopic { .. } => false,
        }
    }

    /// The error's name in traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "fenced",
            Self::FoldVersion { .. } => "fold_version",
            Self::InactiveTopic { .. } => "out_of_turn",
            Self::Sql(_) => "sql",
            Self::Raced => "raced",
            Self::Deadline => "deadline",
        }
    }

    /// Whether a smaller batch may succeed: this one took too long (57014: statement timeout) or too much memory (53200).
    pub fn may_be_of_size(&self) -> bool {
        match self {
            Self::Deadline => true,
            Self::Sql(e) => matches!(database::sqlstate(e).as_deref(), Some("57014" | "53200")),
            _ => false,
        }
    }
}

/// Whether a worker has ended because its topic is not active any more.
pub fn is_inactive_topic(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ApplyError::InactiveTopic { .. }))
}

/// Whether the error names this table or one of its windows.
fn names_table(error: &sqlx::Error, table: &str) -> bool {
    error.as_database_error().and_then(|e| e.table()).is_some_and(|name| name.starts_with(table))
}
