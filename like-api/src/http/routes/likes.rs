//! `PUT` and `DELETE /v1/products/{productId}/like`: a like or unlike becomes an event, which is
//! acknowledged once Kafka has written it. Counting is like-aggregator's job.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use like_events::{EventId, LikeEvent, ProductId, Receipt, UserId};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::app::AppState;
use crate::http::error::{ApiError, Fault};
use crate::http::extract;
use crate::http::middleware::request_context::peer;
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::publish::write_gate::OpenGate;
use crate::traces::{Incoming, Sending};

const KEY: &str = "Identifies this click. A repeat with the same key by the same user, for the same product and method, is the \
                   same event. Each click needs a key of its own: one made from user and product would turn every later \
                   click into a repeat. Keys are honoured for 48 hours, unless the operators set another time. A UUIDv7 is best: the \
                   event id then begins with its time, which makes storing it cheaper.";

/// A like or unlike as requested: the user, the product, and the idempotency key if there is one.
pub struct LikeRequest {
    trace: Option<Incoming>,
    user: UserId,
    product: ProductId,
    key: Option<String>,
}

impl FromRequestParts<Arc<AppState>> for LikeRequest {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, ApiError> {
        let product = extract::product_id(parts).await;
        Self::new(app, &parts.headers, peer(&parts.extensions), product).await
    }
}

impl LikeRequest {
    /// Checks the credentials first, then the parameters.
    pub async fn new(
        app: &AppState,
        headers: &HeaderMap,
        peer: IpAddr,
        product: Result<ProductId, Fault>,
    ) -> Result<Self, ApiError> {
        let user = app.known_caller(headers, peer).await?;
        match (product, extract::idempotency_key(headers)) {
            (Ok(product), Ok(key)) => {
                // With tracing on, the span of the request carries the trace.
                let trace = if app.traces.tracer().is_none() { Incoming::of(headers) } else { None };
                Ok(Self { trace, user, product, key })
            }
            (product, key) => Err(ApiError::Invalid([product.err(), key.err()].into_iter().flatten().collect())),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    /// The id of the event; the same for each repeat with the same key.
    #[schema(value_type = schemas::EventId)]
    event_id: EventId,
    #[schema(value_type = schemas::ProductId)]
    product_id: ProductId,
    /// Whether the user likes the product now.
    liked: bool,
    #[schema(value_type = schemas::Receipt)]
    #[serde(serialize_with = "shown")]
    receipt: Receipt,
}

impl Acknowledged {
    pub fn new(event: LikeEvent, receipt: Receipt) -> Self {
        Self { event_id: event.event_id, product_id: event.product_id, liked: event.liked, receipt }
    }
}

/// The URL of a receipt, with what tells whether the event is a repeat: which event it is, and when this record of it came.
fn location(base: &str, receipt: Receipt, event_id: EventId, time: i64) -> String {
    let time = DateTime::from_timestamp_millis(time).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true);
    format!("{base}/v1/receipts/{receipt}?eventId={event_id}&recordTime={time}")
}

fn shown<S: Serializer>(receipt: &Receipt, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(receipt)
}

problem_responses!(LikeProblems: INVALID_REQUEST, UNAUTHENTICATED, KEYS_UNAVAILABLE, WRITES_UNAVAILABLE, NOT_ACCEPTED, OUTCOME_UNKNOWN);

/// Like a product
///
/// The caller likes the product from now on. Liking it twice counts once.
#[utoipa::path(
    put, path = paths::LIKE, operation_id = "like", tag = "likes", security(("caller" = [])),
    params(
        ("productId" = schemas::ProductId, Path, example = "p42"),
        ("Idempotency-Key" = Option<schemas::IdempotencyKey>, Header, description = KEY),
    ),
    responses(
        (
            status = 202, description = "The like is written and will be counted exactly once.", body = Acknowledged,
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
        LikeProblems,
    ),
)]
pub async fn like(State(app): State<Arc<AppState>>, request: LikeRequest) -> Result<Response, ApiError> {
    publish(&app, request, true).await
}

/// Unlike a product
///
/// The caller no longer likes the product. Unliking a product that was never liked changes nothing.
#[utoipa::path(
    delete, path = paths::LIKE, operation_id = "unlike", tag = "likes", security(("caller" = [])),
    params(
        ("productId" = schemas::ProductId, Path, example = "p42"),
        ("Idempotency-Key" = Option<schemas::IdempotencyKey>, Header, description = KEY),
    ),
    responses(
        (
            status = 202, description = "The unlike is written and will be counted exactly once.", body = Acknowledged,
            headers(("Location")),
            links(
                ("receipt" = (operation_id = "getReceipt", parameters(("receipt" = "$response.body#/receipt")))),
                ("likes" = (operation_id = "getLikes", parameters(("productId" = "$response.body#/productId")))),
            ),
            example = json!({
                "eventId": "13d8aaac-2316-8b29-b822-b7111e27cd9d", "productId": "p42", "liked": false, "receipt": "1-21-1",
            }),
        ),
        LikeProblems,
    ),
)]
pub async fn unlike(State(app): State<Arc<AppState>>, request: LikeRequest) -> Result<Response, ApiError> {
    publish(&app, request, false).await
}

/// Publishes the event and waits for the acknowledgement.
pub async fn publish(app: &AppState, request: LikeRequest, liked: bool) -> Result<Response, ApiError> {
    let LikeRequest { trace, user, product, key } = request;
    let OpenGate { sequence, time_ordered_ids_from } = app.gate.state().map_err(ApiError::WritesUnavailable)?;
    let event_id = match key {
        Some(key) => EventId::from_idempotency_key(&user, &product, liked, &key, time_ordered_ids_from),
        None => EventId::random(),
    };
    let event = LikeEvent { event_id, liked, product_id: product, user_id: Some(user), occurred_at: Utc::now() };
    let product = event.product_id.as_str();
    let sending = Sending::begin(&app.traces, app.publisher.topic(), product, || trace);
    let published = app.publisher.publish(product, &event.to_json(), sending.headers()).await;
    sending.end(&published);
    let position = published.map_err(ApiError::NotPublished)?;

    let receipt = Receipt { sequence, partition: position.partition, offset: position.offset };
    let location = [(header::LOCATION, location(app.site.base(), receipt, event_id, position.time))];
    Ok((StatusCode::ACCEPTED, location, Json(Acknowledged::new(event, receipt))).into_response())
}
