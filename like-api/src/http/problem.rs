//! The kinds of problem: one table with the constant parts of each. Error answers, the OpenAPI
//! description and the pages under `/problems` are made from it.
//!
//! `type` is `/problems/<name>`, a relative reference, or absolute below `PUBLIC_URL`. Names are stable, texts are not.

use axum::http::StatusCode;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, SchemaFormat, Type};

#[derive(Debug)]
pub struct Kind {
    /// The last part of `type`.
    pub name: &'static str,
    pub status: StatusCode,
    /// `title`: the same for all of the kind.
    pub title: &'static str,
    /// The default `detail`.
    pub detail: &'static str,
    /// What it means and what to do, for the page about it.
    pub meaning: &'static str,
}

impl Kind {
    pub fn uri(&self) -> String {
        format!("/problems/{}", self.name)
    }
}

pub fn named(name: &str) -> Option<&'static Kind> {
    ALL.iter().copied().find(|kind| kind.name == name)
}

pub fn problem_type() -> RefOr<Schema> {
    let names = ALL.iter().map(|kind| kind.uri());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("uri-reference".to_owned())))
        .description(Some("The kind of problem: the URL of a page that explains it."))
        .enum_values(Some(names))
        .into()
}

macro_rules! kinds {
    ($($constant:ident: $status:ident $name:literal $title:literal $detail:literal $meaning:literal)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: &Kind = &Kind {
                name: $name,
                status: StatusCode::$status,
                title: $title,
                detail: $detail,
                meaning: $meaning,
            };
        )*
        /// All of them, by status.
        pub const ALL: &[&Kind] = &[$($constant),*];
    };
}

kinds! {
    INVALID_REQUEST: BAD_REQUEST "invalid-request"
        "The request breaks a rule"
        "errors names each part of the request at fault"
        "A parameter, a header or a member of the body breaks its rule. `errors` names each of them and the rule. The same request will be \
         refused again."

    UNAUTHENTICATED: UNAUTHORIZED "unauthenticated"
        "The caller isn't known"
        "the request has no credentials"
        "Credentials are missing where they are required, or aren't accepted. `WWW-Authenticate` states what is \
         expected. Bad credentials are refused even where none are required."

    NOT_FOUND: NOT_FOUND "not-found"
        "There is no such resource"
        "no route has this path"
        "No route has this path. `/openapi.json` lists the routes."

    RECEIPT_UNKNOWN: NOT_FOUND "receipt-unknown"
        "No event has this receipt"
        "the log ends before this position"
        "The receipt is well-formed, but no event is at its position in the log."

    METHOD_NOT_ALLOWED: METHOD_NOT_ALLOWED "method-not-allowed"
        "The resource doesn't have this method"
        "the Allow header names the methods of this resource"
        "The path exists, but not with this method. `Allow` lists the methods."

    REQUEST_TIMEOUT: REQUEST_TIMEOUT "request-timeout"
        "The request takes too long"
        "the body did not end in time"
        "The body of the request did not end in time. Only `POST /v1/likes` needs a body."

    PAYLOAD_TOO_LARGE: PAYLOAD_TOO_LARGE "payload-too-large"
        "The body is too large"
        "this route reads no body, and this one is too large to be ignored"
        "The body of the request is larger than this service accepts, or the like is larger than its topic accepts. Only \
         `POST /v1/likes` needs a body."

    UNSUPPORTED_MEDIA_TYPE: UNSUPPORTED_MEDIA_TYPE "unsupported-media-type"
        "The body must be JSON"
        "Content-Type must be application/json"
        "The body isn't JSON, by its `Content-Type`: send `Content-Type: application/json`."

    TOO_MANY_REQUESTS: TOO_MANY_REQUESTS "too-many-requests"
        "Too many requests"
        "this caller's rate is used up"
        "The rate limit of the user or the address is exceeded. The same request is admitted after `Retry-After` \
         seconds, if no other one comes before it. Nothing was done: the request may be repeated unchanged. A request \
         with several likes counts as that many requests."

    INTERNAL: INTERNAL_SERVER_ERROR "internal"
        "Something went wrong"
        "an error on our side; the request id finds it in the log"
        "A bug in this service. Operators find the cause in the log under `requestId`."

    USER_LIKES_OFF: NOT_IMPLEMENTED "user-likes-off"
        "Users' likes aren't listed here"
        "the operators of this service have left out the index that lists a user's likes"
        "This service doesn't list the likes of a user, as its operators have chosen: `like-aggregator setup --user-likes on` \
         makes the index for it. Whether the caller likes a product is in the answers of `/v1/likes` all the same."

    WRITES_UNAVAILABLE: SERVICE_UNAVAILABLE "writes-unavailable"
        "Likes can't be accepted now"
        "the topic's layout has not been read yet"
        "The service can't accept likes at the moment; `detail` has the reason. Nothing was written: try again after \
         `Retry-After` seconds."

    NOT_ACCEPTED: SERVICE_UNAVAILABLE "not-accepted"
        "The like was not accepted"
        "nothing was written; try again"
        "The like was certainly not written. Try again after `Retry-After` seconds."

    KEYS_UNAVAILABLE: SERVICE_UNAVAILABLE "keys-unavailable"
        "The token can't be verified now"
        "the key that the token names can't be fetched from its issuer now; the token may be valid"
        "The issuer's keys can't be fetched, so the token can't be verified. Nothing was done: try again after \
         `Retry-After` seconds."

    READS_UNAVAILABLE: SERVICE_UNAVAILABLE "reads-unavailable"
        "Reads are unavailable"
        "the database can't be queried; likes are still accepted"
        "The database can't be read. Likes are still accepted, and counted later. Try again after `Retry-After` seconds."

    OVERLOADED: SERVICE_UNAVAILABLE "overloaded"
        "Too busy"
        "more requests than can be answered in time; nothing was done, try again"
        "The service receives more requests than it can answer in time. Nothing was done: try again after `Retry-After` \
         seconds."

    OUTCOME_UNKNOWN: GATEWAY_TIMEOUT "outcome-unknown"
        "The like may or may not have been accepted"
        "outcome unknown: retry with the same Idempotency-Key"
        "Kafka did not acknowledge the like in time: it may or may not have been written. Repeat the request with the \
         same `Idempotency-Key` until it is answered `202`: it stays one event, counted once. Without a key, a repeat is \
         an event of its own; it also counts once per user, but may undo a change made in the meantime. In `POST /v1/likes` \
         the key is the like's `key`."
}
