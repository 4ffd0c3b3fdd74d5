//! Likes without the router and its layers. In alternating runs of both (`make bench ARGS="--only publish"`
//! with `PROGRAMS`, two rounds, 2026-11-26) a like through the router took 12 % more CPU at the median of all
//! loads, 15 to 19 % with tokens at 1,000 connections. To remove the bypass, delete this file, and `mod bypass`
//! and the call of `answer` in `listener/mod.rs`.

use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use like_events::ProductId;

use crate::app::AppState;
use crate::http::middleware::request_context::{Received, RequestContext};
use crate::http::paths;
use crate::http::routes::likes::{LikeRequest, publish};

/// Answers a like or an unlike. None: the router has to answer, also where the path doesn't spell
/// its product id plainly.
pub async fn answer(app: &AppState, received: Received, request: &Request<Incoming>) -> Option<Response> {
    let liked = match *request.method() {
        Method::PUT => true,
        Method::DELETE => false,
        _ => return None,
    };
    let product = request.uri().path().strip_prefix("/v1/products/")?.strip_suffix("/like")?;
    let product = ProductId::parse(product).ok()?;
    let headers = request.headers();
    let handle = async {
        match LikeRequest::new(app, headers, received.peer, Ok(product)).await {
            Ok(request) => publish(app, request, liked).await.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    };
    Some(RequestContext::new(app, request, received).answer(app, paths::LIKE, handle).await)
}
