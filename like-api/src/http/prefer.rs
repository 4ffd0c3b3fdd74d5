//! The `Prefer` header (RFC 7240), of which `wait` is honoured. The `headers` crate doesn't have it.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};

/// The longest wait, in seconds: longer than a like takes to be counted in normal operation, and
/// shorter than the timeouts of gateways.
pub const WAIT_MAX: u64 = 10;

/// The request header.
pub const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The response header that lists the honoured preferences.
pub const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Returns how long the client is ready to wait, at most [`WAIT_MAX`] seconds. None without a valid
/// `wait`: the RFC says to ignore invalid preferences.
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    // Several header lines are one list.
    let fields = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = fields.flat_map(|field| split(field, ',')).map(|preference| {
        // Parameters follow a semicolon; wait has none.
        let preference = split(preference, ';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        (name.trim(), value.trim())
    });
    // Only the first counts, even if it is invalid.
    let (_, value) = preferences.find(|(name, _)| name.eq_ignore_ascii_case("wait"))?;
    let digits = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A number that doesn't fit is above the maximum.
    is_number.then(|| Duration::from_secs(digits.parse().unwrap_or(WAIT_MAX).min(WAIT_MAX)))
}

/// Splits at separators outside of quotes.
fn split(field: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    field.split(move |c| {
        (quoted, escaped) = match c {
            '"' if !escaped => (!quoted, false),
            '\\' if quoted && !escaped => (true, true),
            _ => (quoted, false),
        };
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seconds(sent: &[&str]) -> Option<u64> {
        let sent = sent.iter().map(|value| (PREFER, HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        wait(&sent.collect()).map(|wait| wait.as_secs())
    }

    #[test]
    fn wait_is_found_and_capped() {
        for (sent, found) in [
            (&["wait=5"][..], 5),
            (&["wait=0"], 0),
            (&["WAIT = 007"], 7),
            (&["wait=10"], 10),
            (&["wait=11"], 10),
            (&["wait=99999999999999999999999"], 10),
            (&["wait=\"3\""], 3),
            (&["respond-async, wait=5"], 5),
            (&["return=minimal; foo=\"a, wait=1; \\\" wait=2\" , wait=5;x=y, handling=lenient"], 5),
            (&["respond-async", "wait=5"], 5),
            (&[", ,=,wait=5,"], 5),
            (&["é", "wait=5"], 5),
            // The first of several.
            (&["wait=5, wait=6"], 5),
            (&["wait=5", "wait=6"], 5),
        ] {
            assert_eq!(seconds(sent), Some(found), "{sent:?}");
        }
    }

    #[test]
    fn invalid_wait_is_ignored() {
        assert_eq!(seconds(&[]), None);
        let numbers = ["wait=\"\"", "wait=-1", "wait=+1", "wait=1.5", "wait=5s", "wait=5 6", "wait=\"5"];
        let preferences = ["", "wait", "wait=", "wait 5", "waits=5", "x=\"wait=5", "x;wait=5", "wait=x, wait=5"];
        for sent in numbers.into_iter().chain(preferences) {
            assert_eq!(seconds(&[sent]), None, "{sent}");
        }
    }
}
