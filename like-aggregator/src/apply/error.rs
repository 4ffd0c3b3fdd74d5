//! Why a batch was not applied, and which of these errors a retry may solve.

use like_common::database;

use crate::fold::{Dedup, FOLD_VERSION};
use crate::schema::fold_rules::FoldRules;

/// Why a batch was not applied. Nothing of it was written, unless the answer to COMMIT was lost: then the next attempt is
/// fenced.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("partition {partition} is folded up to {found}, not {believed}: another worker has written")]
    Fenced {
        partition: i32,
        believed: i64,
        /// The stored offset; -1: there is no row.
        found: i64,
    },
    #[error(
        "the database holds fold version {found} and this build folds by {FOLD_VERSION}: run a build of that version, or \
         `rebuild` with this one"
    )]
    FoldVersion {
        /// The version in the table; -1: the table is empty.
        found: i32,
    },
    #[error(
        "{}, and this process folds by {own:?}: restart it without DEDUP and DEDUP_WINDOW, so that it takes the recorded ones",
        found.map_or_else(|| "the database has no fold settings".to_owned(), |found| format!("the database holds {found}"))
    )]
    FoldRules {
        /// None: `setup` has recorded none.
        found: Option<FoldRules>,
        own: Dedup,
    },
    /// The topic isn't the active one: its recorded end lies before the batch's, or a topic before it isn't folded to its
    /// end.
    #[error("topic {topic} is not the active one: topic_layout has changed")]
    NotActive { topic: String },
    /// There is no connection. While the worker runs, a refusal (28P01, 3D000, 55000) is an outage like any other.
    #[error("connecting to PostgreSQL: {0}")]
    Connect(sqlx::Error),
    /// The plan of a statement that was prepared earlier no longer fits its table; a new connection plans it again.
    #[error(transparent)]
    StalePlan(sqlx::Error),
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A row of `product_like` changed during this batch, though the batch has locked its partition: a producer sends one
    /// product to two partitions. The next attempt reads the current rows.
    #[error("a like changed during the batch: some producer does not partition its records as the contract says")]
    Raced,
    #[error("no answer from PostgreSQL in time")]
    Deadline,
}

impl ApplyError {
    /// Whether the same batch may succeed on a new connection.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deadline | Self::Raced | Self::StalePlan(_) => true,
            // A pooler that keeps no settings won't keep them next time.
            Self::Connect(e) => !matches!(e, sqlx::Error::Configuration(_)),
            // 23505: another worker wrote one of the rows meanwhile; the next look-up finds it.
            // 23514: there is no window for a record's time; the next attempt makes it.
            Self::Sql(e) => {
                database::is_transient(e)
                    || match database::sqlstate(e).as_deref() {
                        Some("23505") => is_of(e, "event_handled") || is_of(e, "product_like"),
                        Some("23514") => is_of(e, "event_handled"),
                        _ => false,
                    }
            }
            Self::Fenced { .. } | Self::FoldVersion { .. } | Self::FoldRules { .. } | Self::NotActive { .. } => false,
        }
    }

    /// Returns its `error.type` for traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "fenced",
            Self::FoldVersion { .. } => "fold_version",
            Self::FoldRules { .. } => "fold_settings",
            Self::NotActive { .. } => "not_active",
            Self::Connect(_) => "connect",
            Self::StalePlan(_) => "stale_plan",
            Self::Sql(_) => "sql",
            Self::Raced => "raced",
            Self::Deadline => "deadline",
        }
    }

    /// Whether a worker has ended because its topic is no longer the active one.
    pub fn ends_topic(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref(), Some(Self::NotActive { .. }))
    }

    /// Whether the batch may be too large for the database at the moment: it took too long (57014 is the server's deadline)
    /// or too much memory.
    pub fn may_be_of_size(&self) -> bool {
        match self {
            Self::Deadline => true,
            Self::Sql(e) => matches!(database::sqlstate(e).as_deref(), Some("57014" | "53200")),
            _ => false,
        }
    }
}

/// Whether the error is about this table or one of its windows.
fn is_of(error: &sqlx::Error, table: &str) -> bool {
    error.as_database_error().and_then(|e| e.table()).is_some_and(|name| name.starts_with(table))
}
