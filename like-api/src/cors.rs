//! CORS: which origins may use the API from a browser. And the security headers of our own pages.
//!
//! Callers authenticate by a header that the page sets, not by a cookie. A browser therefore adds no
//! credentials to another site's request, and `Access-Control-Allow-Credentials` is never sent. The
//! list of origins is a second line of defence. With `*`, pages of unlisted origins may read counts
//! anonymously, but neither write nor authenticate. A gateway that authenticates by cookie is
//! protected too: a like is no "simple" request, so the browser sends a preflight first.
//!
//! Pages may never send the header of `AUTH_MODE=trusted-header`: only a gateway sets it.
//!
//! tower-http's `CorsLayer` isn't used: it has one set of methods and headers for all origins, where
//! `*` and listed origins differ here, and as a layer it adds 1 to 7 us to each request.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::{AllowedOrigin, BrowserSettings};

/// What pages of a listed origin may send.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";
const HEADERS: &str = "authorization, idempotency-key, prefer, if-none-match, last-event-id, x-request-id, \
                       traceparent, tracestate, baggage, sentry-trace, content-type, cache-control, pragma, \
                       x-requested-with";
/// What pages of other origins may send, where `*` is set.
const ANONYMOUS_METHODS: &str = "GET, HEAD";
const ANONYMOUS_HEADERS: &str = "prefer, if-none-match, last-event-id, x-request-id, traceparent, tracestate, baggage, \
                                 sentry-trace, content-type, cache-control, pragma, x-requested-with";
/// The response headers that pages may read, beside those that are always readable.
const EXPOSED: &str = "location, link, etag, retry-after, ratelimit, ratelimit-policy, x-request-id, preference-applied, \
                       www-authenticate";
/// How long a browser caches the answer, in seconds. Chromium caches at most two hours.
const PREFLIGHT_AGE: &str = "7200";

/// The policy of a page without one of its own: nothing from other hosts, no frames. Inline styles,
/// which generated pages have, can't send data anywhere.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

pub struct Cors {
    exact: Vec<HeaderValue>,
    any: bool,
    headers: HeaderValue,
    anonymous_headers: HeaderValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Everything,
    Read,
    Nothing,
}

impl Cors {
    pub fn new(settings: &BrowserSettings) -> Self {
        let with_more = |usual: &str| {
            let more = settings.cors_allowed_headers.iter().map(HeaderName::as_str);
            let all: Vec<_> = std::iter::once(usual).chain(more).collect();
            HeaderValue::try_from(all.join(", ")).expect("header names and commas")
        };
        let (headers, anonymous_headers) = (with_more(HEADERS), with_more(ANONYMOUS_HEADERS));
        let mut rules = Self { exact: Vec::new(), any: false, headers, anonymous_headers };
        for origin in &settings.cors_allowed_origins {
            match origin {
                AllowedOrigin::Any => rules.any = true,
                AllowedOrigin::Exact(origin) => rules.exact.push(origin.clone()),
            }
        }
        rules
    }

    /// Returns the answer to a preflight. None: the request isn't one, or CORS is off.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let is_one = *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let origin = headers.get(header::ORIGIN).filter(|_| is_one && self.enabled())?;
        let mut answer = StatusCode::NO_CONTENT.into_response();
        let (methods, allowed) = match self.permission(Some(origin)) {
            Permission::Everything => (METHODS, &self.headers),
            Permission::Read => (ANONYMOUS_METHODS, &self.anonymous_headers),
            // Without permissions: the browser reports it in its console.
            Permission::Nothing => return Some(answer),
        };
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods)),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone()),
            (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE)),
        ] {
            answer.headers_mut().insert(name, value);
        }
        Some(answer)
    }

    /// Adds the headers for browsers to an answer; `origin` is the request's.
    pub fn finish(&self, origin: Option<&HeaderValue>, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let html = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/html");
        if headers.get(header::CONTENT_TYPE).is_some_and(html) {
            page(headers);
        }
        // The script of the button is for pages of all origins, whoever may use the API.
        if !self.enabled() || headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let allowed = match self.permission(origin) {
            Permission::Everything => origin.cloned(),
            Permission::Read => Some(HeaderValue::from_static("*")),
            Permission::Nothing => None,
        };
        // A cached answer for one origin must not be served to another. That holds for refused origins
        // and requests without an origin too, unless all origins get the same answer.
        if !self.exact.is_empty() {
            vary(headers, &header::ORIGIN);
        }
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }

    fn enabled(&self) -> bool {
        self.any || !self.exact.is_empty()
    }

    fn permission(&self, origin: Option<&HeaderValue>) -> Permission {
        match origin {
            Some(origin) if self.exact.contains(origin) => Permission::Everything,
            _ if self.any => Permission::Read,
            _ => Permission::Nothing,
        }
    }
}

/// Adds the security headers of a page, unless its handler has set them.
fn page(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // For browsers without frame-ancestors.
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// Adds a name to `Vary` and joins its lines: some caches read only one.
fn vary(headers: &mut HeaderMap, name: &HeaderName) {
    let mut names: Vec<&str> = Vec::new();
    for line in headers.get_all(header::VARY) {
        names.extend(line.to_str().unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()));
    }
    if names.iter().any(|known| *known == "*" || known.eq_ignore_ascii_case(name.as_str())) && names.len() == 1 {
        return;
    }
    names.retain(|known| !known.eq_ignore_ascii_case(name.as_str()));
    names.push(name.as_str());
    let merged = HeaderValue::try_from(names.join(", ")).unwrap_or(HeaderValue::from_static("*"));
    headers.insert(header::VARY, merged);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: HeaderValue = HeaderValue::from_static("https://shop.example");

    fn finished(rules: &Cors, origin: Option<&HeaderValue>, vary: &[&'static str]) -> Vec<HeaderValue> {
        let mut response = ().into_response();
        for line in vary {
            response.headers_mut().append(header::VARY, HeaderValue::from_static(line));
        }
        rules.finish(origin, &mut response);
        response.headers().get_all(header::VARY).iter().cloned().collect()
    }

    #[test]
    fn vary_adds_origin_once() {
        let rules = |exact, any| Cors {
            exact,
            any,
            headers: HeaderValue::from_static(""),
            anonymous_headers: HeaderValue::from_static(""),
        };
        let listed = rules(vec![SHOP], false);
        for (set, expected) in [
            (&[][..], "origin"),
            (&["Authorization"], "Authorization, origin"),
            (&["Authorization, Accept", "X-User-Id"], "Authorization, Accept, X-User-Id, origin"),
            (&["Origin, Accept"], "Accept, origin"),
            (&["Origin"], "Origin"),
            (&["*"], "*"),
        ] {
            for origin in [None, Some(&SHOP), Some(&HeaderValue::from_static("https://evil.example"))] {
                assert_eq!(finished(&listed, origin, set), [expected], "{set:?} {origin:?}");
            }
        }
        // All origins get the same answer.
        for any in [true, false] {
            assert!(finished(&rules(Vec::new(), any), Some(&SHOP), &[]).is_empty());
        }
    }
}
