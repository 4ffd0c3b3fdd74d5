//! Why a read fails.

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// PostgreSQL can't be reached, or doesn't answer in time.
    #[error("{0}")]
    Unavailable(String),
    /// A bug of ours.
    #[error("{0}")]
    Internal(String),
    /// A stream or a query that would exceed a limit, or a stream that is opened while the service shuts down.
    #[error("too many streams, products or queries")]
    Overloaded,
}
