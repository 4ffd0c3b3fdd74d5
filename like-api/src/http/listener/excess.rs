//! Connections above the limit: answered 503 at once, so that clients, or a gateway with other
//! replicas, can react. If they weren't accepted, clients would have to wait for a timeout.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::app::AppState;
use crate::config::REFUSALS_MAX;

/// The largest head, URL included, in bytes; a larger one, or one of more than 100 fields, hyper's limit,
/// is answered 431. The longest that a route takes (`ids`) fits twice, and the buffer of a connection is
/// no larger.
pub const HEAD_MAX: usize = 16 * 1024;
/// The time in which a client has to read the answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The time for its head.
const HEAD_TIMEOUT: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct ExcessConnections(TaskTracker);

impl ExcessConnections {
    /// Answers 503 and closes the connection. Of a request only the origin is read, if it comes soon: a
    /// browser hides the answer from a page whose origin isn't named in it.
    pub fn refuse(&self, mut stream: TcpStream, app: Arc<AppState>, why: &'static str) {
        if self.0.len() >= REFUSALS_MAX {
            return;
        }
        self.0.spawn(timeout(TIMEOUT, async move {
            let head = timeout(HEAD_TIMEOUT, head(&mut stream)).await.unwrap_or_default();
            stream.write_all(&answer(&app, origin(&head).as_ref(), why)).await?;
            stream.shutdown().await?;
            // Closing with unread bytes resets the connection, which may lose the answer.
            let mut unread = [0; 1024];
            while stream.read(&mut unread).await? > 0 {}
            std::io::Result::Ok(())
        }));
    }
}

/// Reads up to the end of a head.
async fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while head.len() < HEAD_MAX && !head.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(1..) => {}
            _ => break,
        }
    }
    head
}

fn origin(head: &[u8]) -> Option<HeaderValue> {
    let fields = head.split(|byte| *byte == b'\n').filter_map(|line| line.split_at_checked("origin:".len()));
    let (_, value) = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(b"origin:"))?;
    HeaderValue::from_bytes(value.trim_ascii()).ok()
}

fn answer(app: &AppState, origin: Option<&HeaderValue>, why: &str) -> Vec<u8> {
    // No log line has this id, but clients rely on having one.
    let (id, base) = (Uuid::now_v7(), app.site.base());
    let body = format!(
        r#"{{"type":"{base}/problems/overloaded","title":"Too busy","status":503,"detail":"{why}","requestId":"{id}"}}"#
    );
    let mut head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         cache-control: no-store\r\nretry-after: 1\r\nx-request-id: {id}\r\nconnection: close\r\n",
        body.len()
    )
    .into_bytes();
    let mut headers = Response::default();
    app.cors.finish(origin, &mut headers);
    for (name, value) in headers.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    [&head, b"\r\n".as_slice(), body.as_bytes()].concat()
}
