//! `PUT` and `DELETE /v1/products/{productId}/like`: a wish becomes an event, and is acknowledged
//! once the log has it. Whether and when it is counted is like-aggregator's.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::Utc;
use like_events::{EventId, LikeEvent, ProductId, Receipt, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::http::error::{ApiError, Fault};
use crate::http::extract;
use crate::http::middleware::request_context::{Arrival, Observed};
use crate::http::openapi::refusals::refusals;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::traces::{Incoming, Sending};

const KEY: &str = "Names this click: a repeat with the same key, by the same user, for the same product and wish, is \
                   the same event, for 48 hours unless the operators say otherwise.";

/// Who, which product, and the name of the click if it has one.
pub struct Wish {
    trace: Option<Incoming>,
    user: UserId,
    product: ProductId,
    key: Option<String>,
}

impl FromRequestParts<Arc<AppState>> for Wish {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, ApiError> {
        let product = extract::product_id(parts).await;
        Self::new(app, &parts.headers, product).await
    }
}

impl Wish {
    /// Who it is comes before what is asked.
    async fn new(app: &AppState, headers: &HeaderMap, product: Result<ProductId, Fault>) -> Result<Self, ApiError> {
        let user = app.known_caller(headers).await?;
        match (product, extract::idempotency_key(headers)) {
            (Ok(product), Ok(key)) => {
                // Where spans are made, the one of the request has it.
                let trace = if app.traces.tracer().is_none() { Incoming::of(headers) } else { None };
                Ok(Self { trace, user, product, key })
            }
            (product, key) => Err(ApiError::Invalid([product.err(), key.err()].into_iter().flatten().collect())),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Acknowledged {
    /// The same for each repeat with the same key.
    #[schema(value_type = schemas::EventId)]
    event_id: EventId,
    #[schema(value_type = schemas::ProductId)]
    product_id: ProductId,
    /// What is wanted.
    liked: bool,
    #[schema(value_type = schemas::Receipt)]
    receipt: String,
}

refusals!(Refusals: INVALID_REQUEST, UNAUTHENTICATED, KEYS_UNAVAILABLE, WRITES_UNAVAILABLE, NOT_ACCEPTED, OUTCOME_UNKNOWN);

/// Like a product
///
/// The caller likes the product from now on. Liking it twice counts once.
#[utoipa::path(
    put, path = paths::LIKE, operation_id = "like", tag = "likes", security(("caller" = [])),
    params(
        ("productId" = schemas::ProductId, Path, example = "p42"),
        ("Idempotency-Key" = Option<schemas::IdempotencyKey>, Header, description = KEY, example = "click-1"),
    ),
    responses(
        (
            status = 202, description = "The log has the like: it will be counted exactly once.", body = Acknowledged,
            headers(("Location")),
            links(
                ("receipt" = (operation_id = "getReceipt", parameters(("receipt" = "$response.body#/receipt")))),
                ("likes" = (operation_id = "getLikes", parameters(("productId" = "$response.body#/productId")))),
                ("unlike" = (operation_id = "unlike", parameters(("productId" = "$response.body#/productId")))),
            ),
            example = json!({
                "eventId": "6d88dbc7-5716-8f39-8ec2-917b20ec1ac4", "productId": "p42", "liked": true, "receipt": "1-21-0",
            }),
        ),
        Refusals,
    ),
)]
pub async fn like(State(app): State<Arc<AppState>>, wish: Wish) -> Result<Response, ApiError> {
    publish(&app, wish, true).await
}

/// Take a like back
///
/// The caller doesn't like the product any more. Taking back what was never said changes nothing.
#[utoipa::path(
    delete, path = paths::LIKE, operation_id = "unlike", tag = "likes", security(("caller" = [])),
    params(
        ("productId" = schemas::ProductId, Path, example = "p42"),
        ("Idempotency-Key" = Option<schemas::IdempotencyKey>, Header, description = KEY, example = "click-2"),
    ),
    responses(
        (
            status = 202, description = "The log has it: it will be counted exactly once.", body = Acknowledged,
            headers(("Location")),
            links(
                ("receipt" = (operation_id = "getReceipt", parameters(("receipt" = "$response.body#/receipt")))),
                ("likes" = (operation_id = "getLikes", parameters(("productId" = "$response.body#/productId")))),
            ),
            example = json!({
                "eventId": "13d8aaac-2316-8b29-b822-b7111e27cd9d", "productId": "p42", "liked": false, "receipt": "1-21-1",
            }),
        ),
        Refusals,
    ),
)]
pub async fn unlike(State(app): State<Arc<AppState>>, wish: Wish) -> Result<Response, ApiError> {
    publish(&app, wish, false).await
}

/// Answers a request for [`paths::LIKE`] without the router, whose layers are a fifth of the time that a
/// like takes outside of the kernel. None: left to the router, as is a path that doesn't spell its
/// product id plainly.
pub async fn directly<B>(app: &AppState, arrival: Arrival, request: &Request<B>) -> Option<Response> {
    let liked = match *request.method() {
        Method::PUT => true,
        Method::DELETE => false,
        _ => return None,
    };
    let product = request.uri().path().strip_prefix("/v1/products/")?.strip_suffix("/like")?;
    let product = ProductId::parse(product).ok()?;
    let headers = request.headers();
    let handle = async {
        match Wish::new(app, headers, Ok(product)).await {
            Ok(wish) => publish(app, wish, liked).await.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    };
    Some(Observed::new(app, request, arrival).answer(app, paths::LIKE, handle).await)
}

async fn publish(app: &AppState, wish: Wish, liked: bool) -> Result<Response, ApiError> {
    let Wish { trace, user, product, key } = wish;
    let sequence = app.gate.sequence().map_err(ApiError::WritesUnavailable)?;
    let event_id = match key {
        Some(key) => EventId::from_idempotency_key(&user, &product, liked, &key),
        None => EventId::random(),
    };
    let event = LikeEvent { event_id, liked, product_id: product, user_id: Some(user), occurred_at: Utc::now() };
    let product = event.product_id.as_str();
    let sending = Sending::begin(&app.traces, app.publisher.topic(), product, || trace);
    let published = app.publisher.publish(product, &event.to_json(), sending.headers()).await;
    sending.end(&published);
    let position = published.map_err(ApiError::NotPublished)?;

    let receipt = Receipt { sequence, partition: position.partition, offset: position.offset }.to_string();
    let location = [(header::LOCATION, format!("/v1/receipts/{receipt}"))];
    let body = Acknowledged { event_id, product_id: event.product_id, liked, receipt };
    Ok((StatusCode::ACCEPTED, location, Json(body)).into_response())
}
