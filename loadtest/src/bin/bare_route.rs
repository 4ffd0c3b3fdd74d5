//! The least that an HTTP service in this language can do: one axum route of like-api's shape that
//! answers 202 with a fixed body, on the runtime and by the `axum::serve` that an axum service has
//! unless it does something about it. What like-api costs is measured against it, in the same run.
//! Usage: `bare_route IP:PORT`.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::put;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

/// As long as like-api's own.
const BODY: &str =
    r#"{"eventId":"0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","productId":"p123","liked":true,"receipt":"1-17-123456"}"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_default();
    let listener = TcpListener::bind(&addr).await?;
    let answer = async || (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], BODY);
    let router = Router::new().route("/v1/products/{productId}/like", put(answer));
    axum::serve(listener.tap_io(|stream| drop(stream.set_nodelay(true))), router).await?;
    Ok(())
}
