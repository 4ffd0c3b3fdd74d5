//! From signal to end: the first SIGTERM or SIGINT asks everybody to finish, the second ends the
//! process at once.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit status after a second signal (128 + SIGINT, as a shell reports it).
const EXIT_AT_ONCE: i32 = 130;

/// Whoever reads the log may have stopped to, and a line would wait for him.
const SAY: Duration = Duration::from_millis(100);

/// Listens for signals from now on; the token is cancelled by the first one. On a thread of its
/// own: the second one must end the process whatever all others wait for.
pub fn on_signal() -> io::Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (terminate, interrupt) = {
        let _of_this_runtime = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let token = CancellationToken::new();
    let shutdown = token.clone();
    let listen = move || runtime.block_on(listen(terminate, interrupt, &shutdown));
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(token)
}

async fn listen(mut terminate: Signal, mut interrupt: Signal, shutdown: &CancellationToken) {
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let first = next().await;
    shutdown.cancel();
    say(move || info!(signal = first, "shutting down"));
    let second = next().await;
    say(move || warn!(signal = second, "second signal: ending at once"));
    std::process::exit(EXIT_AT_ONCE);
}

fn say(line: impl FnOnce() + Send + 'static) {
    let (said, done) = mpsc::channel();
    std::thread::spawn(move || {
        line();
        said.send(())
    });
    let _ = done.recv_timeout(SAY);
}
