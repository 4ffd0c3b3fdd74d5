//! What browsers ask of a service that another site's pages use: which origins may (CORS), and what
//! a page of ours may do (security headers).
//!
//! A caller is known by a header that the page itself sets, and by no cookie. So there is nothing
//! that a browser adds to another site's request by itself, `Access-Control-Allow-Credentials` is
//! never sent, and an origin need only be kept from acting for a user whose token it can't have
//! anyway. The list is a second fence: with `*`, pages of other origins may read what is anonymous,
//! and neither write nor say who they are. A gateway that knows users by a cookie is protected by
//! it, too: a like is no "simple" request, so the browser asks here first.
//!
//! The header of `AUTH_MODE=trusted-header` is never among those that a page may send: a gateway
//! sets it.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::{AllowedOrigin, BrowserSettings};

/// What pages of a listed origin may send.
const METHODS: &str = "GET, HEAD, PUT, DELETE";
const HEADERS: &str = "authorization, idempotency-key, prefer, if-none-match, last-event-id, x-request-id, \
                       traceparent, tracestate";
/// And those of all others, where they are let in.
const ANONYMOUS_METHODS: &str = "GET, HEAD";
const ANONYMOUS_HEADERS: &str = "prefer, if-none-match, last-event-id, x-request-id, traceparent, tracestate";
/// What they may see of an answer, beside what everybody may.
const EXPOSED: &str = "location, etag, retry-after, x-request-id, preference-applied, www-authenticate";
/// Seconds for which a browser needn't ask again: no browser keeps it for longer than a day, nor
/// Chromium for longer than two hours.
const PREFLIGHT_AGE: &str = "7200";

/// For a page that doesn't say what it needs: nothing from anywhere else, no frame around it. Styles
/// in its own attributes, which pages made by tools have, can't send anything anywhere.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                           img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

/// Rules for browsers.
pub struct Browser {
    exact: Vec<HeaderValue>,
    any: bool,
}

/// What an origin may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Everything,
    Read,
    Nothing,
}

impl Browser {
    /// By settings.
    pub fn new(settings: &BrowserSettings) -> Self {
        let mut rules = Self { exact: Vec::new(), any: false };
        for origin in &settings.cors_allowed_origins {
            match origin {
                AllowedOrigin::Any => rules.any = true,
                AllowedOrigin::Exact(origin) => rules.exact.push(origin.clone()),
            }
        }
        rules
    }

    /// The answer to a preflight; None: the request isn't one, or no origin is let in.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let is_one = *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let origin = headers.get(header::ORIGIN).filter(|_| is_one && self.lets_in())?;
        let mut answer = StatusCode::NO_CONTENT.into_response();
        let (methods, allowed) = match self.may(Some(origin)) {
            May::Everything => (METHODS, HEADERS),
            May::Read => (ANONYMOUS_METHODS, ANONYMOUS_HEADERS),
            // Without permission in it: the browser tells the page's developer.
            May::Nothing => return Some(answer),
        };
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
            (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Some(answer)
    }

    /// Adds what a browser asks of every answer; `origin` is the request's.
    pub fn finish(&self, origin: Option<&HeaderValue>, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let html = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/html");
        if headers.get(header::CONTENT_TYPE).is_some_and(html) {
            page(headers);
        }
        if !self.lets_in() {
            return;
        }
        let allowed = match self.may(origin) {
            May::Everything => origin.cloned(),
            May::Read => Some(HeaderValue::from_static("*")),
            May::Nothing => None,
        };
        // What is kept for one origin mustn't be answered to another: also where nothing is allowed,
        // and where nobody asked. Only where all are answered alike it makes no difference.
        if !self.exact.is_empty() {
            vary(headers, &header::ORIGIN);
        }
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }

    fn lets_in(&self) -> bool {
        self.any || !self.exact.is_empty()
    }

    fn may(&self, origin: Option<&HeaderValue>) -> May {
        match origin {
            Some(origin) if self.exact.contains(origin) => May::Everything,
            _ if self.any => May::Read,
            _ => May::Nothing,
        }
    }
}

/// Of a page, unless its handler has said something else.
fn page(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        // For browsers that don't know frame-ancestors.
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// Adds a name to `Vary`, which becomes one line: caches that read only one are not rare.
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        browser: BrowserSettings,
    }

    fn rules(origins: &str) -> Browser {
        let args: &[&str] = if origins.is_empty() { &["x"] } else { &["x", "--cors-allowed-origins", origins] };
        Browser::new(&Settings::parse_from(args).browser)
    }

    fn finished(origins: &str, origin: Option<&'static str>, set: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut response = ().into_response();
        for (name, value) in set {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        rules(origins).finish(origin.map(HeaderValue::from_static).as_ref(), &mut response);
        response.headers().clone()
    }

    #[test]
    fn vary_names_origin_once_beside_what_the_route_has_named() {
        let shop = "https://shop.example";
        for (set, expected) in [
            (&[][..], "origin"),
            (&[("vary", "Authorization")], "Authorization, origin"),
            (&[("vary", "Authorization, Accept"), ("vary", "X-User-Id")], "Authorization, Accept, X-User-Id, origin"),
            (&[("vary", "Origin, Accept")], "Accept, origin"),
            (&[("vary", "Origin")], "Origin"),
            (&[("vary", "*")], "*"),
        ] {
            for origin in [None, Some(shop), Some("https://evil.example")] {
                let headers = finished(shop, origin, set);
                let lines: Vec<_> = headers.get_all("vary").iter().collect();
                assert_eq!(lines, [expected], "{set:?} {origin:?}");
            }
        }
        // Nothing depends on it.
        assert!(!finished("*", Some(shop), &[]).contains_key("vary"));
        assert!(!finished("", Some(shop), &[]).contains_key("vary"));
    }

    #[test]
    fn an_origin_that_is_not_listed_gets_no_permission_and_everybody_reads_with_a_star() {
        let allowed = |origins: &str, origin| {
            finished(origins, origin, &[]).get("access-control-allow-origin").map(|v| v.to_str().unwrap().to_owned())
        };
        let both = "https://shop.example,http://localhost:3000";
        assert_eq!(allowed(both, Some("http://localhost:3000")).as_deref(), Some("http://localhost:3000"));
        for other in ["https://shop.example.evil.example", "http://shop.example", "https://SHOP.example", "null", "*"] {
            assert_eq!(allowed(both, Some(other)), None, "{other}");
        }
        assert_eq!(allowed(both, None), None);
        assert_eq!(allowed("*", Some("https://evil.example")).as_deref(), Some("*"));
        assert_eq!(allowed("*", None).as_deref(), Some("*"));
        let mixed = "*,https://shop.example";
        assert_eq!(allowed(mixed, Some("https://shop.example")).as_deref(), Some("https://shop.example"));
        assert_eq!(allowed(mixed, Some("https://evil.example")).as_deref(), Some("*"));
        assert_eq!(finished(mixed, None, &[])["vary"], "origin");
        assert_eq!(allowed("", Some("https://shop.example")), None);
    }

    #[test]
    fn a_page_is_kept_to_itself_unless_its_handler_has_said_something_else() {
        let page = finished("", None, &[("content-type", "text/html; charset=utf-8")]);
        assert!(page["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        assert_eq!(
            (&page["x-frame-options"], &page["referrer-policy"]),
            (&"DENY".parse().unwrap(), &"no-referrer".parse().unwrap())
        );
        assert_eq!(page["x-content-type-options"], "nosniff");
        let own = [("content-type", "text/html"), ("content-security-policy", "default-src 'self'")];
        let own = finished("", None, &own);
        assert_eq!(own.get_all("content-security-policy").iter().collect::<Vec<_>>(), ["default-src 'self'"]);
        let data = finished("", None, &[("content-type", "application/json")]);
        assert!(!data.contains_key("content-security-policy") && data["x-content-type-options"] == "nosniff");
    }
}
