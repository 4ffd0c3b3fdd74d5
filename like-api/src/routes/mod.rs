//! The public routes, a file per resource: what is asked, what is answered. What is common to all
//! of them is around them, in [`crate::request`].

mod counts;
pub(crate) mod likes;
mod receipts;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, put};

use crate::AppState;
use crate::error::ApiError;
use crate::request::observe;

/// All of them, ready to serve.
pub fn router(app: Arc<AppState>) -> Router {
    Router::new()
        .route(likes::ROUTE, put(likes::like).delete(likes::unlike))
        .route("/v1/products/{productId}/likes", get(counts::one))
        .route("/v1/likes", get(counts::many))
        .route("/v1/receipts/{receipt}", get(receipts::standing))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}
