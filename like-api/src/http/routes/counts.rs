//! `GET /v1/products/{productId}/likes` and `GET /v1/likes?ids=`: counts, and for an authenticated
//! caller what that caller likes. [`crate::read::counts`] says how fresh they are.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use like_events::{ProductId, UserId};
use utoipa::IntoResponses;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::etag;
use crate::http::extract;
use crate::http::middleware::request_context::peer;
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::read::counts::CACHE_AGE;
use crate::read::likes::Likes;

pub(super) const IF_NONE_MATCH: &str =
    "The `ETag` of an earlier answer. If nothing has changed since, the answer is `304` without a body.";

/// Nothing has changed since the answer with the `ETag` of `If-None-Match`.
#[derive(IntoResponses)]
#[response(status = 304, headers(("ETag"), ("Cache-Control"), ("Vary")))]
pub(super) struct NotModified;

problem_responses!(CountProblems: INVALID_REQUEST, UNAUTHENTICATED, KEYS_UNAVAILABLE, READS_UNAVAILABLE);

/// Count the likes of a product
///
/// For an authenticated caller, the answer also states whether the caller likes the product. A product without likes
/// has the count 0.
#[utoipa::path(
    get, path = paths::PRODUCT_LIKES, operation_id = "getLikes", tag = "counts", security((), ("caller" = [])),
    params(
        ("productId" = schemas::ProductId, Path, example = "p42"),
        ("If-None-Match" = Option<String>, Header, description = IF_NONE_MATCH),
    ),
    responses(
        (
            status = 200, description = "The count.", body = Likes,
            headers(("ETag"), ("Cache-Control"), ("Vary")),
            example = json!({ "productId": "p42", "count": 7, "updatedAt": "2026-11-22T10:00:00.123Z", "liked": true }),
        ),
        NotModified,
        CountProblems,
    ),
)]
pub async fn one(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let user = app.caller(&parts.headers, peer(&parts.extensions)).await?;
    let product = extract::product_id(&mut parts).await?;
    let mut likes = read(&app, vec![product], user.as_ref()).await?;
    Ok(etag::json(&parts.headers, caching(&app, user.as_ref()), &likes.pop()))
}

/// Count the likes of several products
///
/// Returns what the route for one product returns, for each of `ids`, in order.
#[utoipa::path(
    get, path = paths::LIKES, operation_id = "listLikes", tag = "counts", security((), ("caller" = [])),
    params(
        ("ids" = schemas::ProductIds, Query, style = Form, explode = false, example = json!(["p42", "p7"])),
        ("If-None-Match" = Option<String>, Header, description = IF_NONE_MATCH),
    ),
    responses(
        (
            status = 200, description = "The counts, in the order of `ids`.", body = Vec<Likes>,
            headers(("ETag"), ("Cache-Control"), ("Vary")),
            example = json!([
                { "productId": "p42", "count": 7, "updatedAt": "2026-11-22T10:00:00.123Z", "liked": true },
                { "productId": "p7", "count": 0, "updatedAt": null, "liked": false },
            ]),
        ),
        NotModified,
        CountProblems,
    ),
)]
pub async fn many(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let user = app.caller(request.headers(), peer(request.extensions())).await?;
    let products = extract::ids(request.uri()).map_err(ApiError::Invalid)?;
    let likes = read(&app, products, user.as_ref()).await?;
    Ok(etag::json(request.headers(), caching(&app, user.as_ref()), &likes))
}

async fn read(app: &AppState, products: Vec<ProductId>, user: Option<&UserId>) -> Result<Vec<Likes>, ApiError> {
    let counts = app.counts.read(&products, user).await.map_err(ApiError::Read)?;
    let likes = products.into_iter().zip(counts).map(|(product_id, count)| {
        Likes::new(product_id, count.count, count.updated_at, user.is_some().then_some(count.liked))
    });
    Ok(likes.collect())
}

/// Anonymous answers may be cached for as long as our own cache keeps counts; a caller's own answer
/// only by that caller, who has to revalidate it.
pub(super) fn caching(app: &AppState, user: Option<&UserId>) -> [(HeaderName, HeaderValue); 2] {
    const _: () = assert!(CACHE_AGE.as_secs() == 1 && CACHE_AGE.subsec_nanos() == 0, "max-age below says the same");
    let control = match user {
        Some(_) => "private, no-cache",
        None if app.site.public_caching => "public, max-age=1",
        // A shared cache that doesn't see the header of `Vary` would serve it to known callers.
        None => "private, max-age=1",
    };
    [(header::CACHE_CONTROL, HeaderValue::from_static(control)), (header::VARY, app.auth.vary())]
}
