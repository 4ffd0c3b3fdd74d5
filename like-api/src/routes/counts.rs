//! `GET /v1/products/{productId}/likes` and `GET /v1/likes?ids=`: counts as of now, and for a
//! known caller what that caller likes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::SecondsFormat;
use like_events::{ProductId, UserId};
use serde::Serialize;

use crate::AppState;
use crate::error::ApiError;
use crate::{extract, reads};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Likes {
    product_id: ProductId,
    count: i64,
    /// RFC 3339 in UTC; null: never liked.
    updated_at: Option<String>,
    /// Absent for a caller who isn't known.
    #[serde(skip_serializing_if = "Option::is_none")]
    liked: Option<bool>,
}

/// One product.
pub async fn one(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let user = app.caller(&parts.headers).await?;
    let product = extract::product_id(&mut parts).await?;
    let mut likes = read(&app, vec![product], user.as_ref()).await?;
    Ok((caching(&app, user.as_ref()), Json(likes.pop())).into_response())
}

/// Several, in the order asked for.
pub async fn many(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let user = app.caller(request.headers()).await?;
    let products = extract::ids(request.uri()).map_err(ApiError::Invalid)?;
    let likes = read(&app, products, user.as_ref()).await?;
    Ok((caching(&app, user.as_ref()), Json(likes)).into_response())
}

async fn read(app: &AppState, products: Vec<ProductId>, user: Option<&UserId>) -> Result<Vec<Likes>, ApiError> {
    let counts = reads::counts(&app.pool, &products, user).await?;
    let likes = products.into_iter().zip(counts).map(|(product_id, count)| Likes {
        product_id,
        count: count.count,
        updated_at: count.updated_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        liked: user.is_some().then_some(count.liked),
    });
    Ok(likes.collect())
}

/// Who may keep the answer: nobody without asking again, and of a known caller's nobody else.
fn caching(app: &AppState, user: Option<&UserId>) -> [(HeaderName, HeaderValue); 2] {
    let control = if user.is_some() { "private, no-cache" } else { "no-cache" };
    [(header::CACHE_CONTROL, HeaderValue::from_static(control)), (header::VARY, app.auth.vary())]
}
