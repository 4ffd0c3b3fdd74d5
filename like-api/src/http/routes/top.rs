//! `GET /v1/likes/top`: the products with the most likes. The answer is the same for all callers, so caches may share it.
//! [`crate::read::top`] says how fresh it is.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use chrono::SecondsFormat;
use serde::Serialize;
use utoipa::openapi::Ref;
use utoipa::{IntoResponses, ToSchema};

use crate::app::AppState;
use crate::http::error::{ApiError, Fault};
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::{etag, extract, paths};
use crate::read::top::{INTERVAL, TOP_MAX, Window};

const _: () = assert!(INTERVAL.as_secs() == 5 && INTERVAL.subsec_nanos() == 0, "max-age says the same");

/// The number of products without `limit`.
const LIMIT: usize = 10;

#[derive(Serialize, ToSchema)]
struct TopAnswer {
    window: Window,
    /// The begin of the window; absent for `all`.
    #[schema(format = DateTime, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Most likes first; equal ones in the order of their ids.
    #[schema(max_items = 100)]
    items: Vec<TopProduct>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TopProduct {
    #[schema(schema_with = product_id)]
    product_id: String,
    /// Likes less unlikes within the window; absent for `all`.
    #[schema(minimum = 1, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    gained: Option<i64>,
    /// How many users like it; for `all` only.
    #[schema(minimum = 1, nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<i64>,
}

fn product_id() -> Ref {
    Ref::from_schema_name("ProductId")
}

/// The answer with the `ETag` of `If-None-Match` is still the current one.
#[derive(IntoResponses)]
#[response(status = 304, headers(("ETag"), ("Cache-Control")))]
struct NotModified;

problem_responses!(TopProblems: INVALID_REQUEST, READS_UNAVAILABLE);

/// List the most liked products
///
/// With `window=all` by the number of users who like them, else by likes gained in the window: likes less unlikes, of
/// products that gained at least one. Windows consist of hours of UTC, and begin with the hour that contains the moment so
/// long ago: `1h` covers 60 to 120 minutes. The list is renewed every five seconds, that of `all` every minute, and less often
/// where the query takes long.
#[utoipa::path(
    get, path = paths::TOP, operation_id = "listTop", tag = "counts", security(()),
    params(
        ("window" = Option<Window>, Query, description = "The time in which likes are counted; `24h` by default.", example = "all"),
        ("limit" = Option<i64>, Query, description = "How many products; 10 by default.", minimum = 1, maximum = 100),
        (
            "If-None-Match" = Option<String>, Header,
            description = "The `ETag` of an earlier answer. If nothing has changed since, the answer is `304` without a body.",
        ),
    ),
    responses(
        (
            status = 200, description = "The products.", body = TopAnswer, headers(("ETag"), ("Cache-Control")),
            example = json!({ "window": "all", "items": [{ "productId": "p42", "count": 7 }] }),
        ),
        NotModified,
        TopProblems,
    ),
)]
pub async fn top(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let [window, limit] = extract::parameters(request.uri(), ["window", "limit"])?;
    let window = extract::one_of("window", window.as_deref(), &Window::NAMES)?.unwrap_or(Window::Day);
    let limit = match limit.map(|limit| limit.parse()) {
        None => LIMIT,
        Some(Ok(limit @ 1..=TOP_MAX)) => limit as usize,
        Some(_) => return Err(Fault::parameter("limit", format!("must be a number from 1 to {TOP_MAX}")).into()),
    };
    let ranking = app.top.read(window).await.map_err(ApiError::Read)?;
    let items = ranking.products.iter().take(limit).map(|(product_id, likes)| {
        let (gained, count) = if window == Window::All { (None, Some(*likes)) } else { (Some(*likes), None) };
        TopProduct { product_id: product_id.clone(), gained, count }
    });
    let since = ranking.since.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
    let answer = TopAnswer { window, since, items: items.collect() };
    let caching = [(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=5"))];
    Ok(etag::json(request.headers(), caching, &answer))
}
