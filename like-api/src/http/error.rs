//! Error answers as `application/problem+json` (RFC 9457): one enum, converted from the errors of the
//! modules below. Only the request context knows the request id, so [`ApiError`] travels to it as an
//! extension of the response, where [`finish`] writes and logs it, once.
//!
//! The constant parts of each kind are in [`crate::http::problem`].

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::{debug, error, warn};
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::http::problem::{self, Kind};
use crate::limits::LimitError;
use crate::publish::outcome::PublishError;
use crate::read::error::ReadError;

/// `Retry-After` of a refused like, in seconds: a full queue drains in less.
const RETRY_WRITE: u64 = 1;
/// `Retry-After` while the topic, the database or the keys are missing, in seconds.
const RETRY_LATER: u64 = 5;

/// Why a request fails. Holds the cause for the log, which is never sent to the client.
#[derive(Debug, Clone)]
pub enum ApiError {
    Invalid(Vec<Fault>),
    Auth(AuthError),
    NotFound,
    /// No event has this receipt, for this reason.
    ReceiptUnknown(&'static str),
    MethodNotAllowed,
    /// The operators have left out what lists a user's likes.
    UserLikesOff,
    /// The body is too large; the text states the limit.
    TooLarge(String),
    /// The body isn't JSON by its `Content-Type`.
    NotJson,
    /// The body doesn't end in time; the text states the limit.
    TooSlow(String),
    Limit(LimitError),
    /// A bug.
    Internal(String),
    /// Likes can't be accepted now; the client receives the reason.
    WritesUnavailable(String),
    Read(ReadError),
    NotPublished(PublishError),
}

/// A part of a request that breaks a rule.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Fault {
    /// The part.
    #[serde(flatten)]
    pub at: At,
    /// The rule it breaks.
    pub detail: String,
}

/// The part of a request that a fault is in.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum At {
    /// A parameter of path or query.
    Parameter(&'static str),
    /// A header.
    Header(String),
    /// A member of the body, by its JSON pointer (RFC 6901).
    Pointer(String),
}

impl Fault {
    pub fn parameter(name: &'static str, detail: impl Into<String>) -> Self {
        Self { at: At::Parameter(name), detail: detail.into() }
    }

    pub fn header(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { at: At::Header(name.into()), detail: detail.into() }
    }

    pub fn pointer(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { at: At::Pointer(pointer.into()), detail: detail.into() }
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        Self::Invalid(vec![fault])
    }
}

/// The document without the request id.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub kind: &'static Kind,
    pub detail: Cow<'static, str>,
    pub errors: Vec<Fault>,
    /// Seconds until the next attempt.
    pub retry_after: Option<u64>,
    pub cause: Option<Cause>,
}

/// The body of an error answer (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// The kind of problem: the URL of a page that explains it.
    #[schema(schema_with = problem::problem_type)]
    r#type: String,
    /// The kind in words.
    title: &'a str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this request. For people; the text may change.
    detail: &'a str,
    /// The parts of the request that break a rule, if known.
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
    /// The id of the request, as in the log and in `X-Request-Id`.
    request_id: &'a str,
}

/// The cause and its log level.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// Expected under load, where a line for each would add to the load; a metric counts them.
    Quiet(String),
    Warn(String),
    Bug(String),
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        let (mut errors, mut retry_after, mut cause) = (Vec::new(), None, None);
        let mut retry = |after| retry_after = Some(after);
        let (kind, detail) = match error {
            ApiError::Invalid(faults) => {
                errors = faults;
                (problem::INVALID_REQUEST, None)
            }
            ApiError::Auth(AuthError::Unauthenticated { header, what, .. }) => {
                let detail = format!("{header} {what}");
                errors.push(Fault::header(header, what));
                (problem::UNAUTHENTICATED, Some(detail))
            }
            ApiError::NotFound => (problem::NOT_FOUND, None),
            ApiError::ReceiptUnknown(why) => (problem::RECEIPT_UNKNOWN, Some(why.to_owned())),
            ApiError::MethodNotAllowed => (problem::METHOD_NOT_ALLOWED, None),
            ApiError::UserLikesOff => (problem::USER_LIKES_OFF, None),
            ApiError::TooLarge(limit) => (problem::PAYLOAD_TOO_LARGE, Some(limit)),
            ApiError::NotJson => (problem::UNSUPPORTED_MEDIA_TYPE, None),
            ApiError::TooSlow(limit) => (problem::REQUEST_TIMEOUT, Some(limit)),
            ApiError::Limit(LimitError::TooMany { retry_after, what }) => {
                retry(retry_after);
                (problem::TOO_MANY_REQUESTS, Some(what))
            }
            ApiError::Limit(LimitError::Overloaded) | ApiError::Read(ReadError::Overloaded) => {
                retry(RETRY_WRITE);
                (problem::OVERLOADED, None)
            }
            ApiError::Internal(bug) | ApiError::Read(ReadError::Internal(bug)) => {
                cause = Some(Cause::Bug(bug));
                (problem::INTERNAL, None)
            }
            ApiError::WritesUnavailable(why) => {
                retry(RETRY_LATER);
                (problem::WRITES_UNAVAILABLE, Some(why))
            }
            ApiError::Auth(AuthError::KeysUnavailable) => {
                retry(RETRY_LATER);
                (problem::KEYS_UNAVAILABLE, None)
            }
            ApiError::Read(ReadError::Unavailable(error)) => {
                retry(RETRY_LATER);
                cause = Some(Cause::Warn(error));
                (problem::READS_UNAVAILABLE, None)
            }
            ApiError::NotPublished(PublishError::PerhapsWritten(error)) => {
                cause = Some(Cause::Warn(error));
                (problem::OUTCOME_UNKNOWN, None)
            }
            ApiError::NotPublished(PublishError::TooLarge) => {
                (problem::PAYLOAD_TOO_LARGE, Some("the event is larger than the topic accepts".to_owned()))
            }
            ApiError::NotPublished(error @ PublishError::NoTopic) => {
                retry(RETRY_LATER);
                (problem::WRITES_UNAVAILABLE, Some(error.to_string()))
            }
            ApiError::NotPublished(error) => {
                retry(RETRY_WRITE);
                let text = error.to_string();
                let quiet = matches!(error, PublishError::QueueFull);
                cause = Some(if quiet { Cause::Quiet(text) } else { Cause::Warn(text) });
                (problem::NOT_ACCEPTED, None)
            }
        };
        Self { kind, detail: detail.map_or(Cow::Borrowed(kind.detail), Cow::Owned), errors, retry_after, cause }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let challenge = match &self {
            Self::Auth(AuthError::Unauthenticated { challenge, .. }) => HeaderValue::try_from(challenge).ok(),
            _ => None,
        };
        let problem = Problem::from(self);
        let mut response = problem.kind.status.into_response();
        let headers = response.headers_mut();
        headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
        headers.extend(problem.retry_after.map(|after| (header::RETRY_AFTER, HeaderValue::from(after))));
        response.extensions_mut().insert(problem);
        response
    }
}

/// How many of several likes were not published, and why the first was not. An extension of a successful response.
#[derive(Debug, Clone)]
pub(crate) struct NotPublished {
    pub likes: usize,
    pub problem: Problem,
}

impl Problem {
    fn log(&self, request_id: &str, likes: usize) {
        let (status, problem) = (self.kind.status.as_u16(), self.kind.name);
        match &self.cause {
            Some(Cause::Bug(cause)) => error!(request_id, status, problem, likes, cause, "request failed"),
            Some(Cause::Warn(cause)) => warn!(request_id, status, problem, likes, cause, "request failed"),
            Some(Cause::Quiet(cause)) => debug!(request_id, status, problem, likes, cause, "request refused"),
            None => {}
        }
    }
}

/// Whether a like was handed to the producer and failed there.
pub fn waited_for_brokers(response: &Response) -> bool {
    let problem = response.extensions().get::<Problem>();
    problem.is_some_and(|problem| {
        let name = problem.kind.name;
        let failed = name == problem::NOT_ACCEPTED.name && !matches!(problem.cause, Some(Cause::Quiet(_)));
        failed || name == problem::OUTCOME_UNKNOWN.name
    })
}

/// Writes the document of an [`ApiError`] into its response, with its type below `base`, and its cause to the log. Leaves other
/// responses unchanged.
pub fn finish(response: &mut Response, request_id: &HeaderValue, base: &str) {
    let request_id = request_id.to_str().unwrap_or_default();
    if let Some(NotPublished { likes, problem }) = response.extensions_mut().remove() {
        problem.log(request_id, likes);
    }
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return;
    };
    problem.log(request_id, 1);
    let Problem { kind, detail, errors, .. } = &problem;
    let status = kind.status.as_u16();
    let r#type = format!("{base}{}", kind.uri());
    let document = Document { r#type, title: kind.title, status, detail, errors, request_id };
    let body = serde_json::to_vec(&document).expect("strings always serialise");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    // Caches keep some of these statuses by default.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}
