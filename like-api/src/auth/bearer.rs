//! The `Authorization` header by RFC 6750: the one token in it, and what is answered to a caller
//! whose token isn't taken. A token in the query or in a body is never looked at: URLs are logged.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};

use super::error::AuthError;

/// Longest token, in characters: twice what the largest issuers make, and less than a head may have.
const TOKEN_MAX: usize = 8 * 1024;

/// Why nobody is known. The texts are fixed ones: nothing of a token is ever in them.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There are no credentials.
    Missing,
    /// The header isn't one token: what is wrong with it, as the rest of a sentence about it.
    Header(&'static str),
    /// The token isn't good: why, as the rest of a sentence about it.
    Token(Cow<'static, str>),
    /// The token may be good: the key that it names can't be had now.
    NoKeys,
}

impl Refusal {
    /// A token that isn't good.
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

/// What stands where the token should, not yet looked at; None: the header is absent.
pub fn presented(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::Header("is there more than once"));
    }
    let presented = value.to_str().ok().and_then(|text| text.split_once(' '));
    let presented = presented.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    presented.map(|(_, token)| Some(token.trim_start_matches(' '))).ok_or(NO_TOKEN)
}

/// Whether it may be a token. A pass over all of it, which one that was verified before doesn't need.
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

/// `b64token` of section 2.1. Two headers that a proxy has joined have a comma between them.
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
    fn the_scheme_is_bearer_in_any_case_and_the_token_its_one_word() {
        assert_eq!(of(&[]), Ok(None));
        for sent in ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER  a.b-c_d"] {
            assert_eq!(of(&[sent]), Ok(Some("a.b-c_d".to_owned())), "{sent}");
        }
        assert_eq!(of(&["Bearer a+/~=="]), Ok(Some("a+/~==".to_owned())));
    }

    #[test]
    fn a_header_that_is_no_single_token_is_an_invalid_request() {
        for sent in
            ["", "Bearer", "Bearer ", "Bearer =", "Bearer a b", "Bearer a, Bearer b", "Basic YTpi", "a.b.c", "Bearer é"]
        {
            assert_eq!(of(&[sent]), Err(Refusal::Header("must be Bearer, a space and one token")), "{sent}");
        }
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(Refusal::Header("is there more than once")));
        assert!(matches!(of(&[&format!("Bearer {}", "a".repeat(TOKEN_MAX + 1))]), Err(Refusal::Token(_))));
        assert!(of(&[&format!("Bearer {}", "a".repeat(TOKEN_MAX))]).is_ok());
    }

    #[test]
    fn a_challenge_has_an_error_code_only_for_a_caller_with_credentials() {
        let challenge = |refusal: Refusal| match AuthError::from(refusal) {
            AuthError::Unauthenticated { challenge, .. } => challenge,
            other @ AuthError::KeysUnavailable => panic!("{other:?}"),
        };
        assert_eq!(challenge(Refusal::Missing), "Bearer realm=\"likes\"");
        assert_eq!(
            challenge(Refusal::token("has expired")),
            "Bearer realm=\"likes\", error=\"invalid_token\", error_description=\"the token has expired\""
        );
        assert!(challenge(Refusal::Header("is there more than once")).contains("error=\"invalid_request\""));
    }
}
