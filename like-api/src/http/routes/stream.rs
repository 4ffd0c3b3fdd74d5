//! `GET /v1/likes/stream?ids=`: the same counts as `GET /v1/likes`, and then their changes, as
//! server-sent events. For anybody: `EventSource` can't send a header that would say who it is, so
//! credentials are not looked at and `liked` is never there.
//!
//! Events have no name (`onmessage` gets them) and no id: whoever comes back is told the counts as
//! they are then. `EventSource` comes back by itself when a stream ends, after its `retry`, but not
//! after an answer other than 200: a page that was refused must open a new one.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, header};
use axum::response::{IntoResponse, Response};

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::extract;
use crate::http::openapi::refusals::refusals;
use crate::http::openapi::schemas;
use crate::http::paths;

const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-store"),
    // nginx would keep events until it has a buffer full of them.
    (HeaderName::from_static("x-accel-buffering"), "no"),
];

/// Of two products; the second has no likes yet.
const EXAMPLE: &str = concat!(
    "retry: 2718\n",
    r#"data: {"productId":"p42","count":7,"updatedAt":"2026-11-22T10:00:00.123Z"}"#,
    "\n\n",
    r#"data: {"productId":"p7","count":0,"updatedAt":null}"#,
    "\n\n",
);

refusals!(Refusals: INVALID_REQUEST, READS_UNAVAILABLE);

/// Watch the likes of several products
///
/// Server-sent events: the present counts in the order of `ids`, then each change, at most one per
/// product and interval (a second, unless set otherwise). Credentials are not looked at. An event
/// has no name and no id; its data is one object as `GET /v1/likes` has them, without `liked`. A
/// browser's `EventSource` comes back by itself when a stream ends, but not when it was refused.
// Its errors are answered as such: it begins once its first counts have been read.
#[utoipa::path(
    get, path = paths::STREAM, operation_id = "streamLikes", tag = "counts", security(()),
    params(("ids" = schemas::ProductIds, Query, style = Form, explode = false, example = json!(["p42", "p7"]))),
    responses(
        (
            status = 200, description = "The counts, and then their changes.", body = schemas::LikesEvent,
            content_type = "text/event-stream", headers(("Cache-Control")), example = json!(EXAMPLE),
        ),
        Refusals,
    ),
)]
pub async fn stream(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let products = extract::ids(request.uri()).map_err(ApiError::Invalid)?;
    let body = if request.method() == Method::HEAD {
        // Opens nothing; its length is as unknown as that of a stream.
        Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>())
    } else {
        Body::new(app.streams.open(products).await?)
    };
    Ok((HEADERS, body).into_response())
}
