//! Every answer that isn't a success: `application/problem+json` (RFC 9457). One enum, one
//! `IntoResponse`. The request id is known to [`crate::http::middleware::request_context::observe`] alone, so the document
//! travels to it as an extension of the response and is written there, once, by [`finish`].
//!
//! What stays the same of each kind is in [`crate::http::problem`].

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::{debug, error, warn};
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::http::problem::{self, Kind};
use crate::limits::LimitError;
use crate::publish::outcome::PublishError;
use crate::read::error::ReadError;

/// Seconds after which a refused like is worth another try: a full queue drains in less.
const RETRY_WRITE: &str = "1";
/// Seconds after which a topic or a database may be there.
const RETRY_LATER: &str = "5";

/// What a request can end in, other than success. Holds the cause for the log; the caller never
/// sees an internal text.
#[derive(Debug, Clone)]
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
    /// The keys that a token would be verified with can't be had.
    KeysUnavailable,
    /// PostgreSQL can't be asked.
    ReadsUnavailable(String),
    /// A like that was certainly or perhaps not written.
    NotPublished(PublishError),
}

/// One part of a request at fault.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Fault {
    /// Where it is.
    #[serde(flatten)]
    pub at: At,
    /// The rule it breaks.
    pub detail: String,
}

/// Where a fault is.
#[derive(Debug, Clone, Serialize, ToSchema)]
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

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthenticated { challenge, header, what } => Self::Unauthenticated { challenge, header, what },
            AuthError::KeysUnavailable => Self::KeysUnavailable,
        }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::TooMany { retry_after, what } => Self::TooMany { retry_after, what },
            LimitError::Overloaded => Self::Overloaded,
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(cause) => Self::ReadsUnavailable(cause),
            ReadError::Internal(bug) => Self::Internal(bug),
            ReadError::Overloaded => Self::Overloaded,
        }
    }
}

/// What the document is written from, but for the request id.
#[derive(Debug, Clone)]
struct Problem {
    kind: &'static Kind,
    detail: Cow<'static, str>,
    errors: Vec<Fault>,
    cause: Option<Cause>,
}

/// The body of an answer that isn't a success (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// Which kind of problem it is; leads to a page that explains it.
    #[schema(schema_with = problem::problem_type)]
    r#type: String,
    /// The kind in words.
    title: &'a str,
    /// The answer's status once more.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request. For people: it may change.
    detail: &'a str,
    /// The parts of the request at fault, if they can be named.
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
    /// The id of the request, as in the log and in `X-Request-Id`.
    request_id: &'a str,
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
        let mut headers: Vec<(HeaderName, String)> = Vec::new();
        let mut retry = |after: &str| headers.push((header::RETRY_AFTER, after.to_owned()));
        let mut errors = Vec::new();
        let mut cause = None;
        let (kind, detail) = match self {
            Self::Invalid(faults) => {
                errors = faults;
                (problem::INVALID_REQUEST, None)
            }
            Self::Unauthenticated { challenge, header, what } => {
                headers.push((header::WWW_AUTHENTICATE, challenge));
                let detail = format!("{header} {what}");
                errors.push(Fault::header(header, what));
                (problem::UNAUTHENTICATED, Some(detail))
            }
            Self::NotFound => (problem::NOT_FOUND, None),
            Self::ReceiptUnknown(why) => (problem::RECEIPT_UNKNOWN, Some(why.to_owned())),
            Self::MethodNotAllowed => (problem::METHOD_NOT_ALLOWED, None),
            Self::TooLarge(limit) => (problem::PAYLOAD_TOO_LARGE, Some(limit)),
            Self::TooSlow(limit) => (problem::REQUEST_TIMEOUT, Some(limit)),
            Self::TooMany { retry_after, what } => {
                retry(&retry_after.to_string());
                (problem::TOO_MANY_REQUESTS, Some(what))
            }
            Self::Overloaded => {
                retry(RETRY_WRITE);
                (problem::OVERLOADED, None)
            }
            Self::Internal(bug) => {
                cause = Some(Cause::Bug(bug));
                (problem::INTERNAL, None)
            }
            Self::WritesUnavailable(why) => {
                retry(RETRY_LATER);
                (problem::WRITES_UNAVAILABLE, Some(why))
            }
            Self::KeysUnavailable => {
                retry(RETRY_LATER);
                (problem::KEYS_UNAVAILABLE, None)
            }
            Self::ReadsUnavailable(error) => {
                retry(RETRY_LATER);
                cause = Some(Cause::Warn(error));
                (problem::READS_UNAVAILABLE, None)
            }
            Self::NotPublished(PublishError::PerhapsWritten(error)) => {
                cause = Some(Cause::Warn(error));
                (problem::OUTCOME_UNKNOWN, None)
            }
            Self::NotPublished(error) => {
                retry(RETRY_WRITE);
                let text = error.to_string();
                let quiet = matches!(error, PublishError::QueueFull);
                cause = Some(if quiet { Cause::Quiet(text) } else { Cause::Warn(text) });
                (problem::NOT_ACCEPTED, None)
            }
        };
        let detail = detail.map_or(Cow::Borrowed(kind.detail), Cow::Owned);
        let mut response = kind.status.into_response();
        for (name, value) in headers {
            // A header name and fixed texts: always a valid value.
            response.headers_mut().extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
        }
        response.extensions_mut().insert(Problem { kind, detail, errors, cause });
        response
    }
}

/// Whether a like was handed over, and failed there.
pub fn waited_for_brokers(response: &Response) -> bool {
    let problem = response.extensions().get::<Problem>();
    problem.is_some_and(|problem| {
        let name = problem.kind.name;
        let failed = name == problem::NOT_ACCEPTED.name && !matches!(problem.cause, Some(Cause::Quiet(_)));
        failed || name == problem::OUTCOME_UNKNOWN.name
    })
}

/// Writes the document into a response made from an [`ApiError`], and its cause into the log.
/// Other responses pass unchanged.
pub fn finish(response: &mut Response, request_id: &HeaderValue) {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return;
    };
    let request_id = request_id.to_str().unwrap_or_default();
    let Problem { kind, detail, errors, .. } = &problem;
    let (status, name) = (kind.status.as_u16(), kind.name);
    match &problem.cause {
        Some(Cause::Bug(cause)) => error!(request_id, status, problem = name, cause, "request failed"),
        Some(Cause::Warn(cause)) => warn!(request_id, status, problem = name, cause, "request failed"),
        Some(Cause::Quiet(cause)) => debug!(request_id, status, problem = name, cause, "request refused"),
        None => {}
    }
    let document = Document { r#type: kind.uri(), title: kind.title, status, detail, errors, request_id };
    let body = serde_json::to_vec(&document).expect("strings always serialise");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    // Some of these statuses may be cached by default; none of these answers stays true.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}
