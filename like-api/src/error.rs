//! Every answer that isn't a success: `application/problem+json` (RFC 9457). One enum, one
//! `IntoResponse`. The request id is known to [`crate::request::observe`] alone, so the document
//! travels to it as an extension of the response and is written there, once, by [`finish`].
//!
//! `type` is a relative reference, `/problems/<name>`: names are stable, texts are not.
//!
//! | name | status | |
//! |---|---|---|
//! | `invalid-request` | 400 | `errors` names each parameter or header at fault |
//! | `unauthenticated` | 401 | no or bad credentials |
//! | `not-found` | 404 | no such route |
//! | `receipt-unknown` | 404 | no event is at that position |
//! | `method-not-allowed` | 405 | `Allow` has those that are |
//! | `request-timeout` | 408 | a body that doesn't come to an end |
//! | `payload-too-large` | 413 | a body that no route takes |
//! | `too-many-requests` | 429 | over the caller's rate; `Retry-After` says when it ends |
//! | `internal` | 500 | a bug: the log has it under the request id |
//! | `writes-unavailable` | 503 | the topic isn't ready to take likes |
//! | `not-accepted` | 503 | certainly not written: try again |
//! | `reads-unavailable` | 503 | the database can't be asked; writes go on |
//! | `overloaded` | 503 | more than can be answered in time: nothing was begun |
//! | `outcome-unknown` | 504 | perhaps written: try again with the same Idempotency-Key |

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::{debug, error, warn};

use crate::publisher::PublishError;

/// Seconds after which a refused like is worth another try: a full queue drains in less.
const RETRY_WRITE: &str = "1";
/// Seconds after which a topic or a database may be there.
const RETRY_LATER: &str = "5";

/// What a request can end in, other than success. Holds the cause for the log; the caller never
/// sees an internal text.
#[derive(Debug)]
pub enum ApiError {
    /// Parts of the request break their rules.
    Invalid(Vec<Fault>),
    /// No or bad credentials: what is wrong with which header.
    Unauthenticated {
        /// The value of `WWW-Authenticate`.
        challenge: String,
        /// The header at fault.
        header: String,
        /// What is wrong with it.
        what: String,
    },
    /// No route has this path.
    NotFound,
    /// No event is at a receipt's position.
    ReceiptUnknown(&'static str),
    /// The route hasn't this method.
    MethodNotAllowed,
    /// The body is larger than any route takes: how large it may be.
    TooLarge(String),
    /// The body doesn't come to an end: how long was waited for it.
    TooSlow(String),
    /// This caller has asked too often.
    TooMany {
        /// Seconds until the next one is let in, at least 1.
        retry_after: u64,
        /// Whose rate it is, and how high that may be.
        what: String,
    },
    /// All callers together have asked too often.
    Overloaded,
    /// A bug.
    Internal(String),
    /// No like can be taken now, for a reason that the caller may know.
    WritesUnavailable(String),
    /// PostgreSQL can't be asked.
    ReadsUnavailable(String),
    /// A like that was certainly or perhaps not written.
    NotPublished(PublishError),
}

/// One part of a request at fault.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// Where it is.
    #[serde(flatten)]
    pub at: At,
    /// The rule it breaks.
    pub detail: String,
}

/// Where a fault is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum At {
    /// A parameter of path or query.
    Parameter(&'static str),
    /// A header.
    Header(String),
}

impl Fault {
    /// A parameter of path or query breaks a rule.
    pub fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { at: At::Parameter(name), detail: detail.into() }
    }

    /// A header breaks a rule.
    pub fn header(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { at: At::Header(name.into()), detail: detail.into() }
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(vec![fault])
    }
}

/// The document, but for the request id.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    #[serde(skip)]
    cause: Option<Cause>,
}

/// What the log gets to know, and how loud.
#[derive(Debug, Clone)]
enum Cause {
    /// Expected under load: a metric counts them, a line each would add to the load.
    Quiet(String),
    Warn(String),
    Bug(String),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        use StatusCode as S;
        let mut headers: Vec<(HeaderName, String)> = Vec::new();
        let mut retry = |after: &str| headers.push((header::RETRY_AFTER, after.to_owned()));
        let mut errors = Vec::new();
        let mut cause = None;
        let (status, name, title, detail) = match self {
            Self::Invalid(faults) => {
                errors = faults;
                let detail = "errors names each part of the request at fault".to_owned();
                (S::BAD_REQUEST, "invalid-request", "The request breaks a rule", detail)
            }
            Self::Unauthenticated { challenge, header, what } => {
                headers.push((header::WWW_AUTHENTICATE, challenge));
                let detail = format!("{header} {what}");
                errors.push(Fault::header(header, what));
                (S::UNAUTHORIZED, "unauthenticated", "The caller isn't known", detail)
            }
            Self::NotFound => {
                (S::NOT_FOUND, "not-found", "There is no such resource", "no route has this path".to_owned())
            }
            Self::ReceiptUnknown(why) => (S::NOT_FOUND, "receipt-unknown", "No event has this receipt", why.to_owned()),
            Self::MethodNotAllowed => {
                let detail = "the Allow header names the methods of this resource".to_owned();
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "The resource hasn't this method", detail)
            }
            Self::TooLarge(limit) => (S::PAYLOAD_TOO_LARGE, "payload-too-large", "The body is too large", limit),
            Self::TooSlow(limit) => (S::REQUEST_TIMEOUT, "request-timeout", "The request takes too long", limit),
            Self::TooMany { retry_after, what } => {
                retry(&retry_after.to_string());
                (S::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests", what)
            }
            Self::Overloaded => {
                retry(RETRY_WRITE);
                let detail = "more requests than can be answered in time; nothing was begun, try again".to_owned();
                (S::SERVICE_UNAVAILABLE, "overloaded", "Too busy", detail)
            }
            Self::Internal(bug) => {
                cause = Some(Cause::Bug(bug));
                let detail = "an error on our side; the request id finds it in the log".to_owned();
                (S::INTERNAL_SERVER_ERROR, "internal", "Something went wrong", detail)
            }
            Self::WritesUnavailable(why) => {
                retry(RETRY_LATER);
                (S::SERVICE_UNAVAILABLE, "writes-unavailable", "Likes can't be taken now", why)
            }
            Self::ReadsUnavailable(error) => {
                retry(RETRY_LATER);
                cause = Some(Cause::Warn(error));
                let detail = "the database can't be asked; likes are still taken".to_owned();
                (S::SERVICE_UNAVAILABLE, "reads-unavailable", "This can't be read now", detail)
            }
            Self::NotPublished(PublishError::PerhapsWritten(error)) => {
                cause = Some(Cause::Warn(error));
                let detail = "outcome unknown: retry with the same Idempotency-Key".to_owned();
                (S::GATEWAY_TIMEOUT, "outcome-unknown", "The like may or may not have been taken", detail)
            }
            Self::NotPublished(error) => {
                retry(RETRY_WRITE);
                let text = error.to_string();
                let quiet = matches!(error, PublishError::QueueFull);
                cause = Some(if quiet { Cause::Quiet(text) } else { Cause::Warn(text) });
                let detail = "nothing was written; try again".to_owned();
                (S::SERVICE_UNAVAILABLE, "not-accepted", "The like was not taken", detail)
            }
        };
        let problem =
            Problem { r#type: format!("/problems/{name}"), title, status: status.as_u16(), detail, errors, cause };
        let mut response = status.into_response();
        for (name, value) in headers {
            // A header name and fixed texts: always a valid value.
            response.headers_mut().extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
        }
        response.extensions_mut().insert(problem);
        response
    }
}

/// Writes the document into a response made from an [`ApiError`], and its cause into the log.
/// Other responses pass unchanged.
pub fn finish(response: &mut Response, request_id: &HeaderValue) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        #[serde(flatten)]
        problem: &'a Problem,
        request_id: &'a str,
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return;
    };
    let request_id = request_id.to_str().unwrap_or_default();
    let (status, name) = (problem.status, &problem.r#type);
    match &problem.cause {
        Some(Cause::Bug(cause)) => error!(request_id, status, problem = name, cause, "request failed"),
        Some(Cause::Warn(cause)) => warn!(request_id, status, problem = name, cause, "request failed"),
        Some(Cause::Quiet(cause)) => debug!(request_id, status, problem = name, cause, "request refused"),
        None => {}
    }
    let body = serde_json::to_vec(&Document { problem: &problem, request_id }).expect("strings always serialise");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    // Some of these statuses may be cached by default; none of these answers stays true.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}
