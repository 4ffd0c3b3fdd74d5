//! Connections above the limit: answered 503 at once, so that clients, or a gateway with other
//! replicas, can react. If they weren't accepted, clients would have to wait for a timeout.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::config::REFUSALS_MAX;

/// The time in which a client has to read the answer.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct ExcessConnections(TaskTracker);

impl ExcessConnections {
    /// Answers 503 without reading a request, and closes the connection.
    pub fn refuse(&self, mut stream: TcpStream, why: &'static str) {
        if self.0.len() >= REFUSALS_MAX {
            return;
        }
        self.0.spawn(timeout(TIMEOUT, async move {
            stream.write_all(answer(why).as_bytes()).await?;
            stream.shutdown().await?;
            // Closing with unread bytes resets the connection, which may lose the answer.
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
            std::io::Result::Ok(())
        }));
    }
}

fn answer(why: &str) -> String {
    // No log line has this id, but clients rely on having one.
    let id = Uuid::now_v7();
    let body = format!(
        r#"{{"type":"/problems/overloaded","title":"Too busy","status":503,"detail":"{why}","requestId":"{id}"}}"#
    );
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nretry-after: 1\r\nx-content-type-options: nosniff\r\nx-request-id: {id}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}
