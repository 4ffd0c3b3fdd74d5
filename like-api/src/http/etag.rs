//! Conditional answers: an `ETag` over the body, and `304` without a body where `If-None-Match` has
//! that tag (RFC 9110, section 13).
//!
//! The tag is strong: the same tag means the same bytes from every replica. It is a hash of the body,
//! which needs no state.
//!
//! The `headers` crate isn't used: it accepts no `*` in one of several header lines, and it would add two
//! packages for the two functions at the end of this file.

use std::hash::{DefaultHasher, Hasher};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Returns `value` as JSON with `headers`, or 304 with the same headers if the client has that body.
pub fn json(
    request: &HeaderMap,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    value: &impl Serialize,
) -> Response {
    let body = serde_json::to_vec(value).expect("text, numbers and lists always serialise");
    let tag = tag(&body);
    let mut response = if names(request, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], Body::from(body)).into_response()
    };
    response.headers_mut().extend(headers);
    response.headers_mut().insert(header::ETAG, tag);
    response
}

/// Returns the tag of a body. Another build may hash differently: then the body is sent again.
pub fn tag(body: &[u8]) -> HeaderValue {
    let mut hash = DefaultHasher::new();
    hash.write(body);
    HeaderValue::try_from(format!("\"{:016x}\"", hash.finish())).expect("quotes and hexadecimal digits")
}

/// Whether `If-None-Match` has `tag`, or `*`, which matches any.
pub fn names(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let mut fields = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    fields.any(|field| field.trim() == "*" || tags(field).any(|named| named.as_bytes() == tag.as_bytes()))
}

/// Returns the tags of a list with their quotes and without `W/`: `If-None-Match` compares weakly,
/// and a cache may have weakened our tag. Ends at the first syntax error.
fn tags(field: &str) -> impl Iterator<Item = &str> {
    let mut rest = field;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let text = rest.strip_prefix("W/").unwrap_or(rest);
        let end = text.strip_prefix('"')?.find('"')? + 2;
        rest = &text[end..];
        Some(&text[..end])
    })
}
