//! The error responses of a route: one response per status, listing the kinds of problem that have
//! this status.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::openapi::schema::AllOfBuilder;
use utoipa::openapi::{
    Content, ContentBuilder, Header, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Schema, Type,
    example::ExampleBuilder,
};

use crate::http::problem::{self, Kind};

/// The kinds of problem that every route can return.
const OF_ALL: [&Kind; 5] = [
    problem::REQUEST_TIMEOUT,
    problem::PAYLOAD_TOO_LARGE,
    problem::TOO_MANY_REQUESTS,
    problem::INTERNAL,
    problem::OVERLOADED,
];

/// The answer of the connection, before a request exists.
pub const HEAD_TOO_LARGE: &str = "The head of the request, URL and headers, has more than 16 KiB or 100 fields. No document, \
                              no request id: the connection answers before there is a request.";

/// Declares a type for the `responses` of a route that returns these kinds of problem.
macro_rules! problem_responses {
    ($name:ident: $($kind:ident),*) => {
        struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::response::Response>,
            > {
                $crate::http::openapi::problem_responses::responses(&[$($crate::http::problem::$kind),*])
            }
        }
    };
}
pub(crate) use problem_responses;

/// Returns the responses for `kinds` and for the kinds that every route can return.
pub fn responses(kinds: &[&'static Kind]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<StatusCode, Vec<&Kind>> = BTreeMap::new();
    for kind in kinds.iter().chain(&OF_ALL) {
        by_status.entry(kind.status).or_default().push(kind);
    }
    let mut responses: BTreeMap<_, _> = by_status
        .into_iter()
        .map(|(status, kinds)| (status.as_str().to_owned(), response(status, &kinds).into()))
        .collect();
    responses.insert("431".to_owned(), Response::new(HEAD_TOO_LARGE).into());
    responses
}

fn response(status: StatusCode, kinds: &[&Kind]) -> Response {
    let description = kinds.iter().map(|kind| format!("`{}`: {}", kind.name, kind.meaning)).collect::<Vec<_>>();
    let mut response = ResponseBuilder::new()
        .description(description.join("\n\n"))
        .content("application/problem+json", content(status, kinds))
        .header("Cache-Control", Header::default());
    if status == StatusCode::UNAUTHORIZED {
        response = response.header("WWW-Authenticate", Header::default());
    }
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response = response.header("Retry-After", Header::default());
    }
    response.build()
}

fn content(status: StatusCode, kinds: &[&Kind]) -> Content {
    let types = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(kinds.iter().map(|kind| kind.uri())));
    let statuses = ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status.as_u16()]));
    let narrowed = ObjectBuilder::new().property("type", types).property("status", statuses);
    let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(narrowed);
    let examples = kinds.iter().map(|kind| {
        let example = ExampleBuilder::new().summary(kind.title).value(Some(example(kind))).build();
        (kind.name.to_owned(), RefOr::T(example))
    });
    ContentBuilder::new().schema(Some(Schema::from(schema.build()))).examples_from_iter(examples).build()
}

/// Only an invalid request has `errors`.
fn example(kind: &Kind) -> Value {
    let mut example = json!({
        "type": kind.uri(), "title": kind.title, "status": kind.status.as_u16(), "detail": kind.detail,
        "requestId": "r-2026-11-22-0001",
    });
    if kind.name == problem::INVALID_REQUEST.name {
        let rule = like_events::InvalidId::Product.to_string();
        example["errors"] = json!([{ "parameter": "productId", "detail": rule }]);
    }
    example
}
