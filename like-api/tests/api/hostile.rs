//! Arbitrary input to the public port: no panic, no 500, every refusal is a problem document with the
//! request's id, and the connection is usable or closed afterwards. The tests send bytes over TCP,
//! because hyper refuses some input before the router sees a request.
//!
//! hyper's own refusals have no body and close the connection: a head that isn't HTTP (400) or is too
//! large (431). hyper has no hook for another answer.

use like_testkit::tokens::{TestKey, claims};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::tokens::{AUDIENCE, ISSUER, SECRET, of_secret_taking_likes};
use crate::wire::{Wire, WireAnswer};

#[derive(Debug, Clone)]
struct Sent {
    method: String,
    target: Vec<u8>,
    version: &'static str,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Whole(Vec<u8>),
    Chunked(Vec<u8>),
    /// Ends before its `Content-Length`.
    Broken(Vec<u8>),
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" ", self.version.as_bytes()].concat();
        bytes.extend_from_slice(b"\r\nHost: h\r\n");
        for (name, value) in &self.headers {
            bytes.extend([name.as_slice(), b": ", value, b"\r\n"].concat());
        }
        let sized =
            |body: &[u8], length: usize| [format!("Content-Length: {length}\r\n\r\n").as_bytes(), body].concat();
        bytes.extend(match &self.body {
            Body::None => b"\r\n".to_vec(),
            Body::Whole(body) => sized(body, body.len()),
            Body::Broken(body) => sized(body, body.len() + 1),
            Body::Chunked(body) => {
                let head = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
                let end: &[u8] = if body.is_empty() { b"\r\n" } else { b"\r\n0\r\n\r\n" };
                [head.as_bytes(), body, end].concat()
            }
        });
        bytes
    }
}

fn method() -> impl Strategy<Value = String> {
    let known = ["PUT", "DELETE", "GET", "POST"];
    let others = ["HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "BREW"];
    prop_oneof![
        6 => select(known.to_vec()).prop_map(str::to_owned),
        2 => select(others.to_vec()).prop_map(str::to_owned),
        1 => "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}",
    ]
}

fn segment() -> impl Strategy<Value = Vec<u8>> {
    let encoded = vec(any::<u8>(), 0..12).prop_map(|bytes| {
        let encoded: Vec<_> = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        encoded.concat().into_bytes()
    });
    let odd = ["", ".", "..", "%2e%2e", "%00", "%", "%zz", "a%2Fb", "1-0-0", "1-0-99999999999999999999", "p1;x=1"];
    prop_oneof![
        4 => "[A-Za-z0-9._~:-]{1,12}".prop_map(String::into_bytes),
        2 => encoded,
        2 => "[!-~]{0,20}".prop_map(String::into_bytes),
        2 => select(odd.to_vec()).prop_map(|odd| odd.as_bytes().to_vec()),
        1 => (1..9_000usize).prop_map(|length| vec![b'x'; length]),
        1 => vec(0x21..=0xffu8, 1..8),
    ]
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    let around = [
        ("/v1/products/", "/like"),
        ("/v1/products/", "/likes"),
        ("/v1/likes?ids=", ""),
        ("/v1/likes?ids=", ",p2"),
        ("/v1/likes?", ""),
        ("/v1/likes/top?limit=", ""),
        ("/v1/likes/top?window=", "&limit=2"),
        ("/v1/products/", "/likes/history?from=2026-11-01T00:00:00Z&to=2026-11-02T00:00:00Z&step=day"),
        ("/v1/products/p1/likes/history?step=day&to=2026-11-02T00:00:00Z&from=", ""),
        ("/v1/likes?", "=1"),
        ("/v1/receipts/", ""),
        ("/v1/receipts/1-0-0?eventId=", ""),
        ("/v1/receipts/1-0-0?recordTime=", ""),
        ("/v1/me/likes?limit=", ""),
        ("/v1/me/likes?cursor=", ""),
        ("/v1/", ""),
        ("/", ""),
        ("http://h/v1/products/", "/like"),
        ("//h/", ""),
        ("", ""),
    ];
    (select(around.to_vec()), segment())
        .prop_map(|((before, after), between)| [before.as_bytes(), &between, after.as_bytes()].concat())
}

/// base64url without padding.
fn encoded(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

fn token() -> impl Strategy<Value = String> {
    let good = TestKey::of_secret(SECRET).sign(&claims(ISSUER, AUDIENCE, "u1"));
    let parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let json = prop_oneof![
        r#"\{"alg":"(HS256|none|RS256|HS512)","(kid|crit|jwk|typ|x5c)":(1|"x"|null|\["exp"\]|\{"kty":"oct","k":"AA"\})\}"#,
        r#"\{"(sub|exp|iss|aud)":[0-9]{0,30}(,"(sub|exp)":("[ -~]{0,9}"|-1|1e999|\[\]))?\}"#,
        "\\[{0,200}",
        "[ -~]{0,40}",
    ];
    let (of_others, unsigned) = (parts.clone(), parts.clone());
    prop_oneof![
        3 => Just(good.clone()),
        1 => (0..good.len(), "[ -~]").prop_map(move |(at, other)| [&good[..at], &other, &good[at + 1..]].concat()),
        2 => (json.clone(), json).prop_map(move |(header, body)| {
            [&encoded(header.as_bytes()), &encoded(body.as_bytes()), &of_others[2]].map(String::as_str).join(".")
        }),
        1 => vec(any::<u8>(), 0..60).prop_map(move |body| {
            [&unsigned[0], &encoded(&body), &unsigned[2]].map(String::as_str).join(".")
        }),
        1 => "[A-Za-z0-9._=-]{0,80}",
        1 => (1..14_000usize).prop_map(|length| "x".repeat(length)),
    ]
}

fn header() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    const KNOWN: &str = "Idempotency-Key X-Request-Id X-User-Id Accept Accept-Encoding Content-Type Cookie Origin \
                         Access-Control-Request-Method If-None-Match If-Modified-Since Range Prefer Forwarded \
                         X-Forwarded-For traceparent tracestate Expect Upgrade Connection TE Trailer Host \
                         Content-Length Transfer-Encoding";
    let text = prop_oneof![4 => "[ -~]{0,30}".prop_map(String::into_bytes), 1 => vec(0x80..=0xffu8, 0..30)];
    let scheme = ["Bearer ", "bearer ", "Basic ", "", "Bearer  "];
    prop_oneof![
        2 => (select(scheme.to_vec()), token()).prop_map(|(scheme, token)| {
            (b"Authorization".to_vec(), [scheme, &token].concat().into_bytes())
        }),
        1 => text.clone().prop_map(|key| (b"Idempotency-Key".to_vec(), key)),
        2 => (select(KNOWN.split_whitespace().collect::<Vec<_>>()), text.clone())
            .prop_map(|(name, text)| (name.as_bytes().to_vec(), text)),
        1 => "[!-9;-~]{1,20}".prop_map(|name| (name.into_bytes(), b"x".to_vec())),
        1 => ("[A-Za-z-]{1,20}", text).prop_map(|(name, text)| (name.into_bytes(), text)),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let many = || {
        let like = r#"(\{("(productId|liked|key|userId)":("[a-z.]{1,3}"|true|"\\u00e9"|null|-1e9|\[\{\}\]),?){0,4}\}|[0-9"{}])"#;
        let likes = vec(like, 0..5).prop_map(|likes| format!("{{\"likes\":[{}]}}", likes.join(",")));
        likes.prop_map(String::into_bytes)
    };
    let body = prop_oneof![
        6 => Just(Body::None),
        3 => many().prop_map(Body::Whole),
        1 => many().prop_map(Body::Chunked),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Whole),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Chunked),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Broken),
    ];
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => select(vec!["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1"])];
    // Half of all callers are authenticated; otherwise most code would not be reached.
    let known = format!("Bearer {}", TestKey::of_secret(SECRET).sign(&claims(ISSUER, AUDIENCE, "u1")));
    let known = proptest::option::of(Just((b"Authorization".to_vec(), known.into_bytes())));
    let json = proptest::option::of(Just((b"Content-Type".to_vec(), b"application/json".to_vec())));
    (method(), target(), version, (known, json, vec(header(), 0..5)), body).prop_map(
        |(method, target, version, (known, json, headers), body)| {
            let headers = known.into_iter().chain(json).chain(headers).collect();
            Sent { method, target, version, headers, body }
        },
    )
}

/// The final answer, without the 100 that may come first.
fn read(wire: &mut Wire, to_head: bool) -> Option<WireAnswer> {
    loop {
        let answer = wire.answer_if_any(to_head)?;
        if answer.status >= 200 {
            return Some(answer);
        }
    }
}

impl WireAnswer {
    /// Whether hyper has refused the request by itself.
    fn is_hypers(&self) -> bool {
        matches!(self.status, 400 | 431) && self.header("content-type").is_empty() && self.body.is_empty()
    }

    fn check(&self, to_head: bool) {
        assert_ne!(self.status, 500);
        assert!(!self.header("x-request-id").is_empty());
        if self.status < 400 {
            return;
        }
        assert_eq!(self.header("content-type"), "application/problem+json");
        if to_head {
            return;
        }
        let problem: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        for part in ["type", "title", "detail"] {
            assert!(problem[part].as_str().is_some_and(|text| !text.is_empty()), "{part}");
        }
        let with = |status, header: &str| assert!(self.status != status || !self.header(header).is_empty(), "{header}");
        with(401, "www-authenticate");
        with(405, "allow");
        with(429, "retry-after");
        with(503, "retry-after");
    }
}

/// Sends these one after the other, on one connection for as long as it stays open.
fn try_all(url: &str, all: &[Sent]) {
    let mut wire = Wire::to(url);
    for sent in all {
        let to_head = sent.method == "HEAD";
        // A server that refuses a request closes while the rest is still being sent.
        let written = wire.send(sent.bytes());
        if matches!(sent.body, Body::Broken(_)) {
            wire.end();
        }
        match read(&mut wire, to_head) {
            Some(answer) if answer.is_hypers() => {
                wire.is_closed();
                wire = Wire::to(url);
            }
            Some(answer) => {
                let checked = std::panic::catch_unwind(|| answer.check(to_head));
                assert!(checked.is_ok(), "{answer:?} to {:?}", String::from_utf8_lossy(&sent.bytes()));
                wire = usable_or_closed(wire, url);
            }
            // Where the head ends in the middle of what was sent, the rest is another request.
            None => {
                assert!(!written || !matches!(sent.body, Body::None), "no answer to {sent:?}");
                wire = Wire::to(url);
            }
        }
    }
}

/// The connection, if it takes another request, or else a new one.
fn usable_or_closed(mut wire: Wire, url: &str) -> Wire {
    let sent = wire.send("GET /nowhere HTTP/1.1\r\nHost: h\r\nX-Request-Id: next\r\n\r\n");
    match sent.then(|| read(&mut wire, false)).flatten() {
        Some(answer) if answer.header("x-request-id") == "next" => {
            assert_eq!(answer.status, 404, "{answer:?}");
            wire
        }
        // The server took this request for a part of the one before.
        Some(answer) => {
            assert!(answer.is_hypers(), "{answer:?}");
            Wire::to(url)
        }
        None => Wire::to(url),
    }
}

/// Tries values on a service that takes likes, and asserts that the service still works afterwards.
/// `PROPTEST_CASES` tries more.
async fn try_values<S: Strategy>(
    values: impl FnOnce() -> S + Send + 'static,
    test: impl Fn(&str, S::Value) + Send + 'static,
) {
    let app = of_secret_taking_likes().await;
    let url = app.url.clone();
    let default = ProptestConfig::default();
    let config = ProptestConfig { cases: 4 * default.cases, failure_persistence: None, ..default };
    let tried = tokio::task::spawn_blocking(move || {
        let tried = TestRunner::new(config).run(&values(), |value| {
            test(&url, value);
            Ok(())
        });
        tried.map_err(|failure| failure.to_string())
    });
    assert_eq!(tried.await.unwrap(), Ok(()));
    assert_eq!(app.get("/v1/products/p1/likes").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_requests_are_answered() {
    try_values(|| vec(sent(), 1..6), |url, all: Vec<Sent>| try_all(url, &all)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_bytes_close_the_connection() {
    try_values(
        || vec(any::<u8>(), 1..400),
        |url, bytes: Vec<u8>| {
            let mut wire = Wire::to(url);
            wire.send([&bytes[..], b"\r\n\r\n"].concat());
            wire.end();
            if let Some(answer) = read(&mut wire, false) {
                assert!(answer.is_hypers(), "{answer:?}");
                wire.is_closed();
            }
        },
    )
    .await;
}
