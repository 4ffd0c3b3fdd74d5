//! Signals: the first SIGTERM or SIGINT starts the shutdown, the second ends the process at once. SIGHUP,
//! which log rotation and closed terminals send and which would end the process without a shutdown, is
//! ignored: settings are read at start only.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry;

/// Exit status after a second signal (128 + SIGINT, as a shell reports it).
const EXIT_SECOND_SIGNAL: i32 = 130;

/// Returns a token that the first signal cancels. Signals are handled on their own thread, so that
/// the second one ends the process even if all other threads block.
pub fn on_signal() -> io::Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (terminate, interrupt, hangup) = {
        let _of_this_runtime = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    let token = CancellationToken::new();
    let shutdown = token.clone();
    let handle = move || runtime.block_on(handle(terminate, interrupt, hangup, &shutdown));
    std::thread::Builder::new().name("signals".to_owned()).spawn(handle)?;
    Ok(token)
}

async fn handle(mut terminate: Signal, mut interrupt: Signal, mut hangup: Signal, shutdown: &CancellationToken) {
    let mut next = async || {
        loop {
            tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                Some(()) = hangup.recv() => info!("SIGHUP ignored: settings are read at start only"),
            }
        }
    };
    let first = next().await;
    shutdown.cancel();
    info!(signal = first, "shutting down");
    let second = next().await;
    warn!(signal = second, "second signal: ending at once");
    telemetry::flush();
    std::process::exit(EXIT_SECOND_SIGNAL);
}
