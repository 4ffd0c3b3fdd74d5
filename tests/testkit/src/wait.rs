//! Waiting for a condition, with a deadline that only failures reach.

use std::time::{Duration, Instant};

/// Far longer than a condition takes on a slow, busy machine.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// Polls `ask` until it returns Some; panics with `what` at the deadline.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEFAULT_LIMIT, what, ask).await
}

/// Polls `condition` until it is true; panics with `what` at the deadline.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(what, async || condition().await.then_some(())).await;
}

/// [`eventually`] with another deadline.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        deadline.pause(what).await;
    }
}

/// A deadline for a loop in a spawned task, where the future of an async closure is not known to be
/// Send.
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self::after(DEFAULT_LIMIT)
    }

    pub(crate) fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Sleeps for one polling interval; panics with `what` after the deadline.
    pub(crate) async fn pause(&self, what: &str) {
        assert!(self.start.elapsed() < self.limit, "timed out after {:?}: {what}", self.limit);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
