//! `GET /v1/me/likes`: the products that the caller likes, newest first, page by page.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::etag;
use crate::http::extract;
use crate::http::middleware::request_context::peer;
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::http::routes::counts::caching;
use crate::read::user_likes::{LikedProduct, Page};

problem_responses!(MyLikesProblems: INVALID_REQUEST, UNAUTHENTICATED, KEYS_UNAVAILABLE, READS_UNAVAILABLE, USER_LIKES_OFF);

/// A page of likes.
#[derive(Serialize, ToSchema)]
struct MyLikes {
    items: Vec<LikedProduct>,
    /// The `cursor` of the next page; absent on the last one.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// List what the caller likes
///
/// The newest like first. A like is listed once its receipt says `counted`. The next page continues after the last like of this
/// one, so a like that isn't changed meanwhile is listed exactly once, whatever is liked in between.
#[utoipa::path(
    get, path = paths::MY_LIKES, operation_id = "listMyLikes", tag = "counts", security(("caller" = [])),
    params(
        ("limit" = Option<schemas::PageLimit>, Query, description = "The most likes of the page; 50 by default."),
        ("cursor" = Option<schemas::Cursor>, Query, description = "`next` of the page before."),
        ("If-None-Match" = Option<String>, Header, description = super::counts::IF_NONE_MATCH),
    ),
    responses(
        (
            status = 200, description = "A page of likes.", body = MyLikes,
            headers(("Link"), ("ETag"), ("Cache-Control"), ("Vary")),
            example = json!({ "items": [{ "productId": "p42", "likedAt": "2026-11-22T10:00:00.123Z" }] }),
        ),
        super::counts::NotModified,
        MyLikesProblems,
    ),
)]
pub async fn list(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let user = app.known_caller(request.headers(), peer(request.extensions())).await?;
    let (limit, after) = extract::page(request.uri()).map_err(ApiError::Invalid)?;
    let page = app.user_likes.page(&user, after, limit).await.map_err(ApiError::Read)?;
    let Page { items, next } = page.ok_or(ApiError::UserLikesOff)?;
    let next = next.map(|next| next.to_string());
    let link = next.as_ref().map(|next| link(app.site.base(), limit, next));
    let headers = caching(&app, Some(&user)).into_iter().chain(link);
    Ok(etag::json(request.headers(), headers, &MyLikes { items, next }))
}

/// The URL of the next page (RFC 8288).
fn link(base: &str, limit: usize, next: &str) -> (HeaderName, HeaderValue) {
    let link = format!("<{base}{}?limit={limit}&cursor={next}>; rel=\"next\"", paths::MY_LIKES);
    (header::LINK, HeaderValue::try_from(link).expect("a URL that is a header's value, and digits"))
}
