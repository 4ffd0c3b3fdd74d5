//! Waiting on a condition, with a deadline that only a failure ever reaches.

use std::time::{Duration, Instant};

/// How long a condition may take: far beyond what it takes on a slow, busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until `ask` answers, and panics with `what` if it never does.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, ask).await
}

/// The same with a deadline of its own.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = Patience::of(limit);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        patience.pause(what).await;
    }
}

/// The same for a loop that is written out, as one has to be in a spawned task: the compiler
/// can't see yet that the future of an async closure may move between threads.
pub(crate) struct Patience {
    start: Instant,
    limit: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self::of(DEADLINE)
    }

    /// With a deadline of its own.
    pub(crate) fn of(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// Waits a moment; panics with `what` after the deadline.
    pub(crate) async fn pause(&self, what: &str) {
        assert!(self.start.elapsed() < self.limit, "waited {:?} in vain: {what}", self.limit);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
