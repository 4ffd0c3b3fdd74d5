//! Why a read fails.

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// PostgreSQL can't be reached, or doesn't answer in time.
    #[error("{0}")]
    Unavailable(String),
    /// A bug of ours.
    #[error("{0}")]
    Internal(String),
    /// A stream that would exceed a limit, or that is opened while the service shuts down.
    #[error("too many streams or products")]
    Overloaded,
}
