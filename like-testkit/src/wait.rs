//! Waiting on a condition, with a deadline that only a failure ever reaches.

use std::time::{Duration, Instant};

/// How long a condition may take: far beyond what it takes on a slow, busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until `ask` answers, and panics with `what` if it never does.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
