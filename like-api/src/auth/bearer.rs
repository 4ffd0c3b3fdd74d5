//! The `Authorization` header by RFC 6750: its one token, and the challenge for a caller without a valid
//! one. Tokens in the query or the body are ignored: URLs are logged.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};

use super::error::AuthError;

/// Longest token, in characters: twice the size of the largest issuers' tokens, and less than a head's.
const TOKEN_MAX: usize = 8 * 1024;

/// Why a caller isn't authenticated. The texts are constants and never contain a part of a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Missing,
    /// The header isn't one token. The text completes a sentence about the header.
    Header(&'static str),
    /// The token is invalid. The text completes a sentence about the token.
    Token(Cow<'static, str>),
    /// The token may be valid, but its key can't be fetched now.
    NoKeys,
}

impl Refusal {
    pub const fn token(why: &'static str) -> Self {
        Self::Token(Cow::Borrowed(why))
    }
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        // Section 3: no error code for a request without credentials.
        let (error, what) = match refusal {
            Refusal::NoKeys => return Self::KeysUnavailable,
            Refusal::Missing => (None, "is missing: Bearer and a token".to_owned()),
            Refusal::Header(what) => (Some(("invalid_request", format!("Authorization {what}"))), what.to_owned()),
            Refusal::Token(why) => {
                (Some(("invalid_token", format!("the token {why}"))), format!("holds a token that {why}"))
            }
        };
        let error = error.map(|(code, text)| format!(", error=\"{code}\", error_description=\"{text}\""));
        Self::Unauthenticated {
            challenge: format!("Bearer realm=\"likes\"{}", error.unwrap_or_default()),
            header: "Authorization".to_owned(),
            what,
        }
    }
}

/// Returns the header's token, unchecked. None: there is no header.
pub fn presented(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::Header("occurs more than once"));
    }
    let presented = value.to_str().ok().and_then(|text| text.split_once(' '));
    let presented = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    presented.map(|(_, token)| Some(token.trim_start_matches(' '))).ok_or(NO_TOKEN)
}

/// Checks characters and length. A token that was verified before needs no such pass.
pub fn check(presented: &str) -> Result<(), Refusal> {
    // A `b64token` of section 2.1. Headers that a proxy has joined contain a comma.
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    let bare = presented.trim_end_matches('=');
    if bare.is_empty() || !bare.bytes().all(allowed) {
        return Err(NO_TOKEN);
    }
    if presented.len() > TOKEN_MAX {
        return Err(Refusal::token("has more than 8192 characters"));
    }
    Ok(())
}

const NO_TOKEN: Refusal = Refusal::Header("must be Bearer, a space and one token");
