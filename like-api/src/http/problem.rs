//! The kinds of problem: one table of what stays the same of each, whatever the request. Answers
//! ([`crate::http::error`]), the API's description and the pages that a `type` leads to are made from it.
//!
//! `type` is a relative reference, `/problems/<name>`. Names are stable, texts are not.

use axum::http::StatusCode;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, SchemaFormat, Type};

/// One of them.
#[derive(Debug)]
pub struct Kind {
    /// The last part of `type`.
    pub name: &'static str,
    /// The status of the answer.
    pub status: StatusCode,
    /// `title`: the same for all of the kind.
    pub title: &'static str,
    /// `detail` where there is nothing more particular to say, and in examples.
    pub detail: &'static str,
    /// For who reads up on it: what it means, what to do.
    pub meaning: &'static str,
}

impl Kind {
    /// The value of `type`.
    pub fn uri(&self) -> String {
        format!("/problems/{}", self.name)
    }
}

/// The kind of this name.
pub fn named(name: &str) -> Option<&'static Kind> {
    ALL.iter().copied().find(|kind| kind.name == name)
}

/// `type` of a problem: one of the names that there are.
pub fn problem_type() -> RefOr<Schema> {
    let names = ALL.iter().map(|kind| kind.uri());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("uri-reference".to_owned())))
        .description(Some("Which kind of problem it is; leads to a page that explains it."))
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
        "A parameter or a header breaks its rule. `errors` names each one at fault and says what is expected of it; \
         the same request will be refused again."

    UNAUTHENTICATED: UNAUTHORIZED "unauthenticated"
        "The caller isn't known"
        "the request has no credentials"
        "Credentials are missing where they are needed, or can't be accepted. `WWW-Authenticate` says which ones are \
         expected. Bad ones are refused also where none are needed."

    NOT_FOUND: NOT_FOUND "not-found"
        "There is no such resource"
        "no route has this path"
        "No route has this path. `/openapi.json` lists those that there are."

    RECEIPT_UNKNOWN: NOT_FOUND "receipt-unknown"
        "No event has this receipt"
        "the topic's log does not reach there yet"
        "The receipt is well-formed, but no event is at its position in the log."

    METHOD_NOT_ALLOWED: METHOD_NOT_ALLOWED "method-not-allowed"
        "The resource hasn't this method"
        "the Allow header names the methods of this resource"
        "The path is right, the method isn't. `Allow` names those that are."

    REQUEST_TIMEOUT: REQUEST_TIMEOUT "request-timeout"
        "The request takes too long"
        "the body doesn't come to an end"
        "The request's body didn't come to its end in time. No route needs one."

    PAYLOAD_TOO_LARGE: PAYLOAD_TOO_LARGE "payload-too-large"
        "The body is too large"
        "no route reads a body; this one is too large to be ignored"
        "The request's body is larger than this service takes. No route needs one."

    TOO_MANY_REQUESTS: TOO_MANY_REQUESTS "too-many-requests"
        "Too many requests"
        "this caller's rate is used up"
        "The user or the address has asked too often. `Retry-After` says after how many seconds the next request is \
         let in. Nothing was done: the request may be repeated as it is."

    INTERNAL: INTERNAL_SERVER_ERROR "internal"
        "Something went wrong"
        "an error on our side; the request id finds it in the log"
        "A bug on our side. Operators find the cause in the log under `requestId`."

    WRITES_UNAVAILABLE: SERVICE_UNAVAILABLE "writes-unavailable"
        "Likes can't be taken now"
        "the topic's layout has not been read yet"
        "No like can be taken until the service has what it needs: `detail` says what that is. Nothing was written: \
         try again after `Retry-After` seconds."

    NOT_ACCEPTED: SERVICE_UNAVAILABLE "not-accepted"
        "The like was not taken"
        "nothing was written; try again"
        "The like was certainly not written. Try again after `Retry-After` seconds."

    KEYS_UNAVAILABLE: SERVICE_UNAVAILABLE "keys-unavailable"
        "The token can't be verified now"
        "the key that the token names can't be fetched from its issuer now; the token may be good"
        "The issuer's keys can't be had, so nobody can say whether the token is good. Nothing was done: try again after \
         `Retry-After` seconds."

    READS_UNAVAILABLE: SERVICE_UNAVAILABLE "reads-unavailable"
        "This can't be read now"
        "the database can't be asked; likes are still taken"
        "The database can't be asked. Likes are still taken, and counted later. Try again after `Retry-After` seconds."

    OVERLOADED: SERVICE_UNAVAILABLE "overloaded"
        "Too busy"
        "more requests than can be answered in time; nothing was begun, try again"
        "More requests have come than can be answered in time. Nothing was begun: try again after `Retry-After` \
         seconds."

    OUTCOME_UNKNOWN: GATEWAY_TIMEOUT "outcome-unknown"
        "The like may or may not have been taken"
        "outcome unknown: retry with the same Idempotency-Key"
        "The log didn't say in time whether it has the like. Repeat the request with the same `Idempotency-Key` until \
         it is answered `202`: it is the same like, counted once. Without a key, a repeat is a like of its own, which \
         counts once for the same user as well, but may bring back a wish that was changed since."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_one_kind_and_is_fit_for_a_path() {
        for kind in ALL {
            assert_eq!(ALL.iter().filter(|other| other.name == kind.name).count(), 1, "{}", kind.name);
            assert_eq!(named(kind.name).unwrap().title, kind.title);
            assert!(kind.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", kind.name);
        }
        assert!(named("no-such-problem").is_none());
    }
}
