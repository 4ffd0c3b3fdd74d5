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
    /// There are no credentials.
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
    if !is_token(presented) {
        return Err(NO_TOKEN);
    }
    if presented.len() > TOKEN_MAX {
        return Err(Refusal::token("has more than 8192 characters"));
    }
    Ok(())
}

const NO_TOKEN: Refusal = Refusal::Header("must be Bearer, a space and one token");

/// Whether the text is a `b64token` of section 2.1. Headers that a proxy has joined contain a comma.
fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    let bare = text.trim_end_matches('=');
    !bare.is_empty() && bare.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(sent: &[&str]) -> Result<Option<String>, Refusal> {
        let sent = sent.iter().map(|v| (header::AUTHORIZATION, HeaderValue::from_bytes(v.as_bytes()).unwrap()));
        let headers = sent.collect();
        let presented = presented(&headers)?;
        presented.map(|token| check(token).map(|()| token.to_owned())).transpose()
    }

    #[test]
    fn bearer_scheme_is_case_insensitive() {
        assert_eq!(of(&[]), Ok(None));
        for sent in ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER  a.b-c_d"] {
            assert_eq!(of(&[sent]), Ok(Some("a.b-c_d".to_owned())), "{sent}");
        }
        assert_eq!(of(&["Bearer a+/~=="]), Ok(Some("a+/~==".to_owned())));
    }

    #[test]
    fn header_must_be_a_single_token() {
        for sent in
            ["", "Bearer", "Bearer ", "Bearer =", "Bearer a b", "Bearer a, Bearer b", "Basic YTpi", "a.b.c", "Bearer é"]
        {
            assert_eq!(of(&[sent]), Err(Refusal::Header("must be Bearer, a space and one token")), "{sent}");
        }
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(Refusal::Header("occurs more than once")));
        assert!(matches!(of(&[&format!("Bearer {}", "a".repeat(TOKEN_MAX + 1))]), Err(Refusal::Token(_))));
        assert!(of(&[&format!("Bearer {}", "a".repeat(TOKEN_MAX))]).is_ok());
    }
}
