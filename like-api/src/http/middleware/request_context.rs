//! What is done for every request, in one place because each layer of its own costs a few percent
//! of a request: its id, its metric, its span if spans are wanted, its line in the log, the body of
//! a problem, and a panic that ends one request and not the connection.
//!
//! The line is of target [`ACCESS`] at level debug, and so is off unless `RUST_LOG` asks for it
//! (`info,like_api::access=debug`): it costs about as much as the request. It says nothing of who
//! asks: no user, no address, no token, no query.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use opentelemetry::trace::TraceId;
use tracing::{Level, debug, enabled};
use uuid::Uuid;

use crate::app::AppState;
use crate::http::error::{ApiError, finish, waited_for_brokers};
use crate::http::paths;
use crate::metrics::RequestInProgress;
use crate::traces::{Incoming, ServerSpan, within};

/// The header of the request's id, from the caller or made here, on every answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken, in characters.
pub const REQUEST_ID_MAX: usize = 128;

/// The target of the line that each request may have in the log.
pub const ACCESS: &str = "like_api::access";

/// The layer around all routes.
pub async fn observe(State(app): State<Arc<AppState>>, request: axum::extract::Request, next: Next) -> Response {
    // Without a connection, as in a test of the router, nobody is asking.
    let nobody = || Arrival { peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED), at: Instant::now() };
    let arrival = request.extensions().get().copied().unwrap_or_else(nobody);
    let observed = Observed::new(&app, &request, arrival);
    if let Some(answer) = app.browser.preflight(request.method(), request.headers()) {
        return observed.finish(&app, "", answer);
    }
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("", MatchedPath::as_str);
    observed.answer(&app, route, next.run(request)).await
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The other end of the connection.
    pub peer: IpAddr,
    /// When its head was there.
    pub at: Instant,
}

/// A request that has just come.
pub struct Observed {
    started: Instant,
    id: HeaderValue,
    method: Method,
    client: IpAddr,
    origin: Option<HeaderValue>,
    span: Option<ServerSpan>,
    /// For the log; None: no trace, or no line.
    trace: Option<TraceId>,
    in_progress: RequestInProgress,
}

impl Observed {
    /// Looks at it before it is handled.
    pub fn new<B>(app: &AppState, request: &Request<B>, arrival: Arrival) -> Self {
        let headers = request.headers();
        let span = ServerSpan::begin(&app.traces, request);
        let trace = || match &span {
            Some(span) => Some(span.trace_id()),
            None => Incoming::of(headers).map(|incoming| incoming.trace_id()),
        };
        let trace = if enabled!(target: ACCESS, Level::DEBUG) { trace() } else { None };
        Self {
            started: arrival.at,
            id: request_id(headers),
            method: request.method().clone(),
            client: app.limits.client(arrival.peer, headers),
            origin: headers.get(header::ORIGIN).cloned(),
            span,
            trace,
            in_progress: app.metrics.in_progress(),
        }
    }

    /// Has it handled by `handle`, if the limits let it in. `route` is a route's template, or empty.
    pub async fn answer(self, app: &AppState, route: &str, handle: impl Future<Output = Response>) -> Response {
        if let Some(span) = &self.span {
            span.route(&self.method, route);
        }
        let answer = match app.limits.admit(self.client, route == paths::LIKE, Instant::now()).await {
            Ok(permit) => {
                // Unwind safe: nothing of the request is used afterwards, and what handlers share
                // keeps its locks for a few instructions that don't panic.
                let handle = pin!(AssertUnwindSafe(handle).catch_unwind());
                let answer = within(self.span.as_ref(), handle).await;
                let answer = answer.unwrap_or_else(|panic| ApiError::Internal(panic_text(&*panic)).into_response());
                if answer.status().is_success() || waited_for_brokers(&answer) {
                    permit.settled();
                }
                answer
            }
            Err(refusal) => ApiError::from(refusal).into_response(),
        };
        self.finish(app, route, answer)
    }

    /// Completes the answer, counts and logs it.
    fn finish(self, app: &AppState, route: &str, mut response: Response) -> Response {
        let Self { started, id, method, origin, span, trace, in_progress, .. } = self;
        finish(&mut response, &id);
        app.browser.finish(origin.as_ref(), &mut response);

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

/// The caller's id if it sent one that is fit for a log, else a new one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_an_id_that_is_fit_for_a_log_and_gets_one_otherwise() {
        let id = |sent: &[&str]| {
            let sent = sent.iter().map(|id| (REQUEST_ID, HeaderValue::from_str(id).unwrap()));
            request_id(&sent.collect()).to_str().unwrap().to_owned()
        };
        let longest = "x".repeat(REQUEST_ID_MAX);
        for fit in ["r-1", "~!{}", &longest] {
            assert_eq!(id(&[fit]), fit);
        }
        for unfit in [&[][..], &[""], &["a b"], &["a\tb"], &["r-1", "r-1"], &[&format!("{longest}x")]] {
            assert_eq!(Uuid::parse_str(&id(unfit)).unwrap().get_version_num(), 7, "{unfit:?}");
        }
    }
}
