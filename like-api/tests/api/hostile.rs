//! Whatever is sent to the public port: no panic, no 500, every refusal a problem document with the
//! request's id, and the connection afterwards usable or closed. Bytes over TCP, since a part of
//! what a caller can do wrong is found by the server before the router sees a request.
//!
//! What hyper itself refuses has no body and closes the connection: a head that is no HTTP (400)
//! or too large (431). hyper has no place where another answer could be given.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use like_testkit::tokens::{TestKey, claims};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::common::Api;
use crate::tokens::{AUDIENCE, ISSUER, SECRET, of_secret_taking_likes};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// It ends before the length that was announced.
    Broken(Vec<u8>),
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [self.method.as_bytes(), b" ", &self.target, b" ", self.version.as_bytes(), b"\r\nHost: h\r\n"] {
            bytes.extend_from_slice(part);
        }
        for (name, value) in &self.headers {
            for part in [name.as_slice(), b": ", value, b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        match &self.body {
            Body::None => bytes.extend_from_slice(b"\r\n"),
            Body::Whole(body) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            Body::Chunked(body) => {
                bytes.extend_from_slice(format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
                bytes.extend_from_slice(if body.is_empty() { b"\r\n" } else { b"\r\n0\r\n\r\n" });
            }
            Body::Broken(body) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len() + 1).as_bytes());
                bytes.extend_from_slice(body);
            }
        }
        bytes
    }
}

fn method() -> impl Strategy<Value = String> {
    let known = ["PUT", "DELETE", "GET"];
    let others = ["HEAD", "OPTIONS", "POST", "PATCH", "TRACE", "CONNECT", "get", "BREW"];
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
        ("/v1/receipts/", ""),
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
    let text = prop_oneof![4 => "[ -~]{0,30}".prop_map(String::into_bytes), 1 => vec(0x80..=0xffu8, 0..30)];
    let known = [
        "Idempotency-Key",
        "X-Request-Id",
        "X-User-Id",
        "Accept",
        "Accept-Encoding",
        "Content-Type",
        "Cookie",
        "Origin",
        "Access-Control-Request-Method",
        "If-None-Match",
        "If-Modified-Since",
        "Range",
        "Prefer",
        "Forwarded",
        "X-Forwarded-For",
        "traceparent",
        "tracestate",
        "Expect",
        "Upgrade",
        "Connection",
        "TE",
        "Trailer",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
    ];
    let scheme = ["Bearer ", "bearer ", "Basic ", "", "Bearer  "];
    prop_oneof![
        2 => (select(scheme.to_vec()), token()).prop_map(|(scheme, token)| {
            (b"Authorization".to_vec(), [scheme, &token].concat().into_bytes())
        }),
        1 => text.clone().prop_map(|key| (b"Idempotency-Key".to_vec(), key)),
        2 => (select(known.to_vec()), text.clone()).prop_map(|(name, text)| (name.as_bytes().to_vec(), text)),
        1 => "[!-9;-~]{1,20}".prop_map(|name| (name.into_bytes(), b"x".to_vec())),
        1 => ("[A-Za-z-]{1,20}", text).prop_map(|(name, text)| (name.into_bytes(), text)),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = prop_oneof![
        6 => Just(Body::None),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Whole),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Chunked),
        1 => vec(any::<u8>(), 0..200).prop_map(Body::Broken),
    ];
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => select(vec!["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1"])];
    // Half of all callers are known, or most of what there is would never be reached.
    let known = format!("Bearer {}", TestKey::of_secret(SECRET).sign(&claims(ISSUER, AUDIENCE, "u1")));
    let known = proptest::option::of(Just((b"Authorization".to_vec(), known.into_bytes())));
    (method(), target(), version, (known, vec(header(), 0..5)), body).prop_map(
        |(method, target, version, (known, headers), body)| {
            let headers = known.into_iter().chain(headers).collect();
            Sent { method, target, version, headers, body }
        },
    )
}

/// One answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// Reads the next answer. None: the connection was closed before a byte of it came.
fn read(stream: &mut TcpStream, to_head: bool) -> Option<Answer> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !more(stream, &mut bytes) {
                assert!(bytes.is_empty(), "an answer broke off: {}", String::from_utf8_lossy(&bytes));
                return None;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
        let mut body = bytes.split_off(end);
        if status < 200 {
            bytes = body;
            continue;
        }
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: HashMap<_, _> = lines.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        if !to_head {
            match headers.get("content-length").map(|length| length.parse::<usize>().unwrap()) {
                Some(length) => while body.len() < length && more(stream, &mut body) {},
                None if headers.contains_key("transfer-encoding") => {
                    while !body.ends_with(b"0\r\n\r\n") && more(stream, &mut body) {}
                }
                None => {}
            }
        }
        return Some(Answer { status, headers, body });
    }
}

/// Reads what has come; false: nothing will.
fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut part = [0; 4096];
    match stream.read(&mut part) {
        Ok(0) => false,
        Ok(read) => {
            bytes.extend_from_slice(&part[..read]);
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => panic!("no answer"),
        Err(_) => false,
    }
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

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

fn connect(addr: &str) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these one after the other on one connection, as long as there is one.
fn try_all(addr: &str, all: &[Sent]) {
    let mut stream = connect(addr);
    for sent in all {
        let to_head = sent.method == "HEAD";
        // A server that has seen enough closes while the rest is still being sent.
        let written = stream.write_all(&sent.bytes());
        if matches!(sent.body, Body::Broken(_)) {
            let _ = stream.shutdown(Shutdown::Write);
        }
        match read(&mut stream, to_head) {
            Some(answer) if answer.is_hypers() => {
                assert!(!more(&mut stream, &mut Vec::new()), "open after {answer:?}");
                stream = connect(addr);
            }
            Some(answer) => {
                let what = std::panic::catch_unwind(|| answer.check(to_head));
                assert!(what.is_ok(), "{answer:?} to {:?}", String::from_utf8_lossy(&sent.bytes()));
                stream = usable_or_closed(stream, addr);
            }
            // Where the head ends in the middle of what was sent, the rest is another request.
            None => {
                assert!(written.is_err() || !matches!(sent.body, Body::None), "no answer to {sent:?}");
                stream = connect(addr);
            }
        }
    }
}

/// The connection, if it takes another request, or else a new one.
fn usable_or_closed(mut stream: TcpStream, addr: &str) -> TcpStream {
    let asked = stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: h\r\nX-Request-Id: next\r\n\r\n");
    match asked.ok().and_then(|()| read(&mut stream, false)) {
        Some(answer) if answer.header("x-request-id") == "next" => {
            assert_eq!(answer.status, 404, "{answer:?}");
            stream
        }
        // What followed was taken for a part of the request before.
        Some(answer) => {
            assert!(answer.is_hypers(), "{answer:?}");
            connect(addr)
        }
        None => connect(addr),
    }
}

fn addr(api: &Api) -> String {
    api.url.strip_prefix("http://").unwrap().to_owned()
}

/// `PROPTEST_CASES` tries more.
fn runner() -> TestRunner {
    let default = ProptestConfig::default();
    TestRunner::new(ProptestConfig { cases: 4 * default.cases, failure_persistence: None, ..default })
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_requests_are_answered() {
    let (_topic, _database, api) = of_secret_taking_likes().await;
    let addr = addr(&api);
    let tried = tokio::task::spawn_blocking(move || {
        runner().run(&vec(sent(), 1..6), |all| {
            try_all(&addr, &all);
            Ok(())
        })
    });
    tried.await.unwrap().unwrap();
    assert_eq!(api.get("/v1/products/p1/likes").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn arbitrary_bytes_close_the_connection() {
    let (_topic, _database, api) = of_secret_taking_likes().await;
    let addr = addr(&api);
    let tried = tokio::task::spawn_blocking(move || {
        runner().run(&vec(any::<u8>(), 1..400), |bytes| {
            let mut stream = connect(&addr);
            let _ = stream.write_all(&[&bytes[..], b"\r\n\r\n"].concat());
            let _ = stream.shutdown(Shutdown::Write);
            if let Some(answer) = read(&mut stream, false) {
                prop_assert!(answer.is_hypers(), "{:?}", answer);
                prop_assert!(!more(&mut stream, &mut Vec::new()));
            }
            Ok(())
        })
    });
    tried.await.unwrap().unwrap();
    assert_eq!(api.get("/v1/products/p1/likes").await.status, 200);
}
