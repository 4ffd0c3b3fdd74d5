//! `PUT` and `DELETE /v1/products/{productId}/like`: a wish becomes an event, and is acknowledged
//! once the log has it. Whether and when it is counted is like-aggregator's.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::Utc;
use like_events::{EventId, LikeEvent, ProductId, Receipt, UserId};
use serde::Serialize;

use crate::AppState;
use crate::error::ApiError;
use crate::extract;

/// Who, which product, and the name of the click if it has one.
pub struct Wish {
    user: UserId,
    product: ProductId,
    key: Option<String>,
}

impl FromRequestParts<Arc<AppState>> for Wish {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, ApiError> {
        let user = app.auth.known_caller(&parts.headers)?;
        match (extract::product_id(parts).await, extract::idempotency_key(&parts.headers)) {
            (Ok(product), Ok(key)) => Ok(Self { user, product, key }),
            (product, key) => Err(ApiError::Invalid([product.err(), key.err()].into_iter().flatten().collect())),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Acknowledged {
    event_id: EventId,
    product_id: ProductId,
    liked: bool,
    receipt: String,
}

/// `PUT`: the caller likes the product.
pub async fn like(State(app): State<Arc<AppState>>, wish: Wish) -> Result<Response, ApiError> {
    publish(&app, wish, true).await
}

/// `DELETE`: the caller no longer does.
pub async fn unlike(State(app): State<Arc<AppState>>, wish: Wish) -> Result<Response, ApiError> {
    publish(&app, wish, false).await
}

async fn publish(app: &AppState, wish: Wish, liked: bool) -> Result<Response, ApiError> {
    let Wish { user, product, key } = wish;
    let sequence = app.gate.sequence()?;
    let event_id = match key {
        Some(key) => EventId::from_idempotency_key(&user, &product, liked, &key),
        None => EventId::random(),
    };
    let event = LikeEvent { event_id, liked, product_id: product, user_id: Some(user), occurred_at: Utc::now() };
    let published = app.publisher.publish(event.product_id.as_str(), &event.to_json()).await;
    let position = published.map_err(ApiError::NotPublished)?;

    let receipt = Receipt { sequence, partition: position.partition, offset: position.offset }.to_string();
    let location = [(header::LOCATION, format!("/v1/receipts/{receipt}"))];
    let body = Acknowledged { event_id, product_id: event.product_id, liked, receipt };
    Ok((StatusCode::ACCEPTED, location, Json(body)).into_response())
}
