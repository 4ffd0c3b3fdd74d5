//! From signal to end: the first SIGTERM or SIGINT asks everybody to finish, the second ends the
//! process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit status after a second signal (128 + SIGINT, as a shell reports it).
const EXIT_AT_ONCE: i32 = 130;

/// Listens for signals from now on; the token is cancelled by the first one.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let shutdown = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let first = next().await;
        info!(signal = first, "shutting down");
        shutdown.cancel();
        let second = next().await;
        warn!(signal = second, "second signal: ending at once");
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(token)
}
