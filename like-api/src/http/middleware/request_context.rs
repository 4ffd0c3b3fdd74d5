//! The context of a request: its id, metric, span and log line, the body of a problem, and the answer
//! after a panic, which ends one request and not the connection.
//!
//! tower-http has layers for the request id, catching panics and tracing. They aren't used: each layer
//! adds 1 to 7 us to the 11 to 17 us that a request takes outside of the kernel. Besides, its
//! request-id layer accepts any id a client sends, and its panic layer can't put that id into the
//! answer.
//!
//! The log line has the target [`ACCESS`] and level debug, which `RUST_LOG` enables by
//! `info,like_api::access=debug`: it costs about as much as the request. It names no user, address,
//! token or query.

use std::any::Any;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use opentelemetry::trace::TraceId;
use tracing::{Level, debug, enabled};
use uuid::Uuid;

use crate::app::AppState;
use crate::http::caller::REMAINING;
use crate::http::error::{ApiError, finish, waited_for_brokers};
use crate::http::paths;
use crate::limits::Remaining;
use crate::metrics::Counted;
use crate::traces::{Incoming, ServerSpan, within};

/// The header of the request id, which every answer has.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id accepted from a client, in characters.
pub const REQUEST_ID_MAX: usize = 128;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

pub const ACCESS: &str = "like_api::access";

/// Returns the client's address of a routed request.
pub fn client(app: &AppState, parts: &Parts) -> IpAddr {
    app.limits.proxies.client(peer(&parts.extensions), &parts.headers)
}

/// Returns the peer of a routed request's connection.
pub fn peer(extensions: &Extensions) -> IpAddr {
    received(extensions).peer
}

fn received(extensions: &Extensions) -> Received {
    // Tests of the router have no connection.
    let local = || Received { peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED), at: Instant::now() };
    extensions.get().copied().unwrap_or_else(local)
}

/// The layer around all routes.
pub async fn observe(State(app): State<Arc<AppState>>, request: axum::extract::Request, next: Next) -> Response {
    let context = RequestContext::new(&app, &request, received(request.extensions()));
    if let Some(answer) = app.cors.preflight(request.method(), request.headers()) {
        return context.finish(&app, "", answer);
    }
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    context.answer(&app, route, next.run(request)).await
}

/// When a request was received, and from whom.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub peer: IpAddr,
    /// When its head was complete.
    pub at: Instant,
}

/// The data of a request until it is answered.
pub struct RequestContext {
    started: Instant,
    id: HeaderValue,
    method: Method,
    client: IpAddr,
    origin: Option<HeaderValue>,
    span: Option<ServerSpan>,
    /// For the log line; None without a trace or without a log line.
    trace: Option<TraceId>,
    in_progress: Counted,
}

impl RequestContext {
    /// Starts the request's span and time.
    pub fn new<B>(app: &AppState, request: &Request<B>, received: Received) -> Self {
        let headers = request.headers();
        let span = ServerSpan::begin(&app.traces, request);
        let trace = || match &span {
            Some(span) => Some(span.trace_id()),
            None => Incoming::of(headers).map(|incoming| incoming.trace_id()),
        };
        let trace = if enabled!(target: ACCESS, Level::DEBUG) { trace() } else { None };
        Self {
            started: received.at,
            id: request_id(headers),
            method: request.method().clone(),
            client: app.limits.proxies.client(received.peer, headers),
            origin: headers.get(header::ORIGIN).cloned(),
            span,
            trace,
            in_progress: Counted::by(&app.metrics.in_progress),
        }
    }

    /// Runs `handle` if the limits admit the request. `route` is a route's template, or empty.
    pub async fn answer(self, app: &AppState, route: &str, handle: impl Future<Output = Response>) -> Response {
        if let Some(span) = &self.span {
            span.route(&self.method, route);
        }
        let mut remaining = Remaining::default();
        let mut answer = match app.limits.admit(self.client, route == paths::LIKE, &mut remaining).await {
            Ok(like) => {
                // Unwind safe: the request isn't used afterwards, and shared state is locked only for
                // a few instructions that don't panic.
                let handle = pin!(AssertUnwindSafe(handle).catch_unwind());
                let handle = REMAINING.scope(Cell::new(remaining), async {
                    let answer = within(self.span.as_ref(), handle).await;
                    (answer, REMAINING.with(Cell::get))
                });
                let (answer, left) = handle.await;
                remaining = left;
                let answer = answer.unwrap_or_else(|panic| ApiError::Internal(panic_text(&*panic)).into_response());
                // An early refusal says nothing about how long admitted requests take.
                if let Some(like) = like.filter(|_| answer.status().is_success() || waited_for_brokers(&answer)) {
                    like.settled();
                }
                answer
            }
            Err(refusal) => ApiError::Limit(refusal).into_response(),
        };
        if let Some(shown) = app.limits.shown(remaining) {
            for (name, value) in [RATE_LIMIT_POLICY, RATE_LIMIT].into_iter().zip(shown) {
                answer.headers_mut().insert(name, HeaderValue::try_from(value).expect("names and numbers"));
            }
        }
        self.finish(app, route, answer)
    }

    /// Completes, counts and logs the answer.
    fn finish(self, app: &AppState, route: &str, mut response: Response) -> Response {
        let Self { started, id, method, origin, span, trace, in_progress, .. } = self;
        finish(&mut response, &id, app.site.base());
        app.cors.finish(origin.as_ref(), &mut response);

        let (status, took) = (response.status(), started.elapsed());
        app.metrics.answered(&method, route, status, took);
        drop(in_progress);
        if let Some(span) = span {
            span.end(status);
        }
        debug!(
            target: ACCESS,
            request_id = id.to_str().unwrap_or_default(),
            trace_id = trace.map(display),
            %method,
            route,
            status = status.as_u16(),
            duration_us = took.as_micros() as u64,
            "answered"
        );
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }
}

/// Returns the id that the client sent if it is valid, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fit =
        |id: &HeaderValue| (1..=REQUEST_ID_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let mut sent = headers.get_all(REQUEST_ID).iter();
    match (sent.next(), sent.next()) {
        (Some(id), None) if fit(id) => id.clone(),
        _ => {
            let mut text = Uuid::encode_buffer();
            let text = Uuid::now_v7().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(text).expect("hexadecimal digits and hyphens")
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_default())
}
