//! `GET /v1/likes/stream?ids=`: the counts of `GET /v1/likes` and then their changes, as server-sent
//! events. Always anonymous: `EventSource` can't send credentials in a header, so they are ignored and
//! `liked` is absent.
//!
//! Events have no name, so `onmessage` receives them, and no id: a client that reconnects receives the
//! current counts. `EventSource` reconnects after `retry` when a stream ends, but not after an answer
//! other than 200: then the page has to open a new one.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, header};
use axum::response::{IntoResponse, Response};

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::extract;
use crate::http::middleware::request_context::client;
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::limits::LimitError;
use crate::read::live::OpenError;

const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-store"),
    // Otherwise nginx buffers events.
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// `Retry-After` for an address that has its share, in seconds: until streams of it may have ended.
const RETRY_SHARE: u64 = 30;

/// Two products; the second has no likes.
const EXAMPLE: &str = concat!(
    "retry: 2718\n",
    r#"data: {"productId":"p42","count":7,"updatedAt":"2026-11-22T10:00:00.123Z"}"#,
    "\n\n",
    r#"data: {"productId":"p7","count":0,"updatedAt":null}"#,
    "\n\n",
);

problem_responses!(StreamProblems: INVALID_REQUEST, READS_UNAVAILABLE);

/// Watch the likes of several products
///
/// Server-sent events: the current counts in the order of `ids`, then changes, at most one per
/// product and interval (by default a second). Credentials are ignored. An event has no name and
/// no id; its data is one object of `GET /v1/likes`, without `liked`. A browser's `EventSource`
/// reconnects when a stream ends, but not when it was refused.
// The answer begins once the first counts were read, so errors have their own status.
#[utoipa::path(
    get, path = paths::STREAM, operation_id = "streamLikes", tag = "counts", security(()),
    params(("ids" = schemas::ProductIds, Query, style = Form, explode = false, example = json!(["p42", "p7"]))),
    responses(
        (
            status = 200, description = "The counts, and then their changes.", body = schemas::LikesEvent,
            content_type = "text/event-stream", headers(("Cache-Control")), example = json!(EXAMPLE),
        ),
        StreamProblems,
    ),
)]
pub async fn stream(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let products = extract::ids(&parts.uri).map_err(ApiError::Invalid)?;
    let body = if parts.method == Method::HEAD {
        // Without opening a stream: a body of unknown length, as the GET has.
        Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>())
    } else {
        let opened = app.streams.open(products, client(&app, &parts)).await;
        Body::new(opened.map_err(|error| match error {
            OpenError::Read(error) => ApiError::Read(error),
            OpenError::OverShare(of) => {
                let what = format!("this address has its share of the {of}");
                ApiError::Limit(LimitError::TooMany { retry_after: RETRY_SHARE, what })
            }
        })?)
    };
    Ok((HEADERS, body).into_response())
}
