//! Connections that are one too many: told so at once, so that their callers, or a gateway that has
//! other replicas, can do something about it. Left waiting unaccepted they would learn it from a
//! timeout of their own.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// So many are told at a time; under a flood the rest is just closed.
const TOLD: usize = 64;
/// How long one may take to take note.
const WITHIN: Duration = Duration::from_secs(1);

/// Refuses connections.
#[derive(Default)]
pub struct Refusals(TaskTracker);

impl Refusals {
    /// Answers whatever it was going to ask, and closes it.
    pub fn refuse(&self, mut stream: TcpStream) {
        if self.0.len() >= TOLD {
            return;
        }
        self.0.spawn(timeout(WITHIN, async move {
            stream.write_all(answer().as_bytes()).await?;
            stream.shutdown().await?;
            // Closed with something unread, it would be reset, and the answer lost on its way.
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
            std::io::Result::Ok(())
        }));
    }
}

fn answer() -> String {
    // It has asked nothing yet, so there is nothing to be found in the log; but clients rely on one.
    let id = Uuid::now_v7();
    let body = format!(
        r#"{{"type":"/problems/overloaded","title":"Too busy","status":503,"detail":"as many connections are open as may be; nothing was begun, try again","requestId":"{id}"}}"#
    );
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nretry-after: 1\r\nx-content-type-options: nosniff\r\nx-request-id: {id}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}
