//! The outcome of publishing an event.

/// Where the broker has put an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970: the broker's, unless the topic keeps the producer's.
    pub time: i64,
}

/// Why an event has no position. The texts are for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Not even queued, because the queue is full.
    #[error("the producer's queue is full")]
    QueueFull,
    /// Certainly not written: larger than the contract or the topic allows.
    #[error("the event is too large")]
    TooLarge,
    /// Certainly not written: the brokers don't know the topic.
    #[error("the topic or its partition does not exist")]
    NoTopic,
    /// Certainly not written.
    #[error("not written: {0}")]
    NotWritten(String),
    /// Perhaps written; only the log knows.
    #[error("perhaps written: {0}")]
    PerhapsWritten(String),
}

impl PublishError {
    /// Its name in metrics and traces.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge | Self::NoTopic | Self::NotWritten(_) => "rejected",
            Self::PerhapsWritten(_) => "unknown",
        }
    }
}
