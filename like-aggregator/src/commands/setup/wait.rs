//! Waiting for servers that are still starting.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use like_common::backoff::Backoff;
use tracing::info;

/// Retries `attempt` until it succeeds or the deadline passes; logs each reason once.
pub(super) async fn until<T>(
    deadline: Instant,
    what: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut logged = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = tokio::time::timeout(left, attempt()).await;
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => anyhow!(if logged.is_empty() { "no answer".to_owned() } else { logged.clone() }),
        };
        if Instant::now() >= deadline {
            return Err(error.context(format!("{what} was not ready in time (--timeout)")));
        }
        let reason = format!("{error:#}");
        if reason != logged {
            info!(%reason, "waiting for {what}");
            logged = reason;
        }
        tokio::time::sleep(backoff.pause().min(left)).await;
    }
}
