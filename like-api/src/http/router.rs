//! Which path leads to which handler.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::middleware::request_context::observe;
use crate::http::openapi;
use crate::http::routes::{counts, docs, likes, receipts, stream};

/// Those that are described, with their description.
pub(crate) fn described() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(likes::like, likes::unlike))
        .routes(routes!(counts::one))
        .routes(routes!(counts::many))
        .routes(routes!(stream::stream))
        .routes(routes!(receipts::standing))
}

/// All of them, ready to serve.
pub fn router(app: Arc<AppState>) -> Router {
    let (routes, description) = described().split_for_parts();
    routes
        .merge(docs::router(&openapi::complete(&description, Some(&app.auth))))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}
