//! The public routes, a file per resource: what is asked, what is answered. What is common to all
//! of them is around them, in [`crate::request`].

pub(crate) mod counts;
mod docs;
pub(crate) mod likes;
mod receipts;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::AppState;
use crate::describe;
use crate::error::ApiError;
use crate::request::observe;

/// Those that are described, with their description.
pub(crate) fn described() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::with_openapi(describe::base())
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
        .merge(docs::router(&describe::complete(&description, Some(&app.auth))))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}
