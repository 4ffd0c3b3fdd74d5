//! Settings of `AUTH_MODE=jwt` that are refused; secrets are read from files, and no output has one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;

use jsonwebtoken::Algorithm;
use like_testkit::tokens::{TestKey, claims};
use tempfile::NamedTempFile;

use crate::process::{Running, program, refused, settings};
use crate::tokens::{AUDIENCE, ISSUER, SECRET};

/// A part of each secret, which no output may contain.
const CANARY: &str = "canary-8d1f";

/// Settings of `AUTH_MODE=jwt` with these changes.
pub fn jwt<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [("AUTH_MODE", "jwt"), ("JWT_ISSUER", ISSUER), ("JWT_AUDIENCE", AUDIENCE)];
    settings(&[&usual[..], changes].concat())
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn invalid_token_settings_are_named() {
    let (rsa, ec) = (TestKey::generate("k", Algorithm::RS256), TestKey::generate("k", Algorithm::ES256));
    let weak = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK\n-----END PUBLIC KEY-----";
    let set = "http://127.0.0.1:1/keys";
    for (changes, said) in [
        (&[][..], &["JWT_SECRET", "JWT_PUBLIC_KEY", "JWT_JWKS_URL", "set one of"][..]),
        (&[("JWT_SECRET", SECRET), ("JWT_JWKS_URL", set)], &["JWT_SECRET and JWT_JWKS_URL", "unset"]),
        (&[("JWT_SECRET", SECRET), ("JWT_PUBLIC_KEY", &ec.public_pem)], &["JWT_SECRET and JWT_PUBLIC_KEY"]),
        (&[("JWT_SECRET", SECRET), ("JWT_ISSUER", "-")], &["JWT_ISSUER is not set"]),
        (&[("JWT_SECRET", SECRET), ("JWT_AUDIENCE", "-")], &["JWT_AUDIENCE is not set"]),
        (&[("JWT_SECRET", SECRET), ("JWT_ISSUER", "")], &["JWT_ISSUER", "is empty"]),
        (&[("JWT_SECRET", SECRET), ("JWT_AUDIENCE", "")], &["JWT_AUDIENCE", "is empty"]),
        (&[("JWT_SECRET", SECRET), ("JWT_AUDIENCE", "a, ,b")], &["JWT_AUDIENCE", "one of them is empty"]),
        (&[("JWT_SECRET", SECRET), ("JWT_KEYS_MAX_AGE", "1s")], &["JWT_KEYS_MAX_AGE", "'1s'", "5m"]),
        (&[("JWT_SECRET", &*" ".repeat(40))], &["JWT_SECRET has 0 bytes"]),
        (&[("JWT_SECRET", &*format!("{SECRET}\nshort"))], &["JWT_SECRET has 5 bytes"]),
        (&[("JWT_SECRET", "short")], &["JWT_SECRET has 5 bytes", "at least 32"]),
        (&[("JWT_SECRET", SECRET), ("JWT_ALGORITHMS", "RS256")], &["JWT_ALGORITHMS=RS256", "JWT_SECRET", "HS256"]),
        (&[("JWT_PUBLIC_KEY", &rsa.public_pem), ("JWT_ALGORITHMS", "HS256")], &["JWT_ALGORITHMS=HS256", "RS256"]),
        (&[("JWT_PUBLIC_KEY", &ec.public_pem), ("JWT_ALGORITHMS", "RS256,ES256")], &["JWT_ALGORITHMS=RS256,ES256"]),
        (&[("JWT_PUBLIC_KEY", "no key")], &["JWT_PUBLIC_KEY", "PEM"]),
        (&[("JWT_PUBLIC_KEY", weak)], &["JWT_PUBLIC_KEY", "at least 2048 bits"]),
        (&[("JWT_PUBLIC_KEY", "-----BEGIN PRIVATE KEY-----\n")], &["JWT_PUBLIC_KEY", "private key"]),
        (&[("JWT_JWKS_URL", set)], &["JWT_ALGORITHMS is not set", "RS256, ES256, EdDSA"]),
        (&[("JWT_JWKS_URL", set), ("JWT_ALGORITHMS", "ES256,HS256")], &["JWT_ALGORITHMS=HS256", "JWT_JWKS_URL"]),
        (&[("JWT_JWKS_URL", set), ("JWT_ALGORITHMS", "none")], &["JWT_ALGORITHMS", "'none'", "RS256"]),
        (&[("JWT_JWKS_URL", "http://issuer.example/"), ("JWT_ALGORITHMS", "ES256")], &["JWT_JWKS_URL", "https://"]),
        (&[("JWT_JWKS_URL", "ftp://127.0.0.1/"), ("JWT_ALGORITHMS", "ES256")], &["JWT_JWKS_URL", "https://"]),
        (&[("JWT_JWKS_URL", "https://u:canary-8d1f@h/"), ("JWT_ALGORITHMS", "ES256")], &["JWT_JWKS_URL", "password"]),
        (&[("JWT_JWKS_URL", "keys"), ("JWT_ALGORITHMS", "ES256")], &["JWT_JWKS_URL is not a URL"]),
        (&[("JWT_SECRET", SECRET), ("JWT_LEEWAY", "6m")], &["JWT_LEEWAY", "'6m'", "at most 5m"]),
        (&[("AUTH_MODE", "trusted-header")], &["JWT_ISSUER is set", "AUTH_MODE=trusted-header"]),
        (&[("JWT_SECRET", SECRET), ("JWT_SECRET_FILE", "/x")], &["JWT_SECRET and JWT_SECRET_FILE", "both set"]),
        (&[("JWT_SECRET_FILE", "/nowhere")], &["JWT_SECRET_FILE=/nowhere", "can't be read"]),
        (&[("JWT_SECRET_FILE", "")], &["JWT_SECRET_FILE", "is empty"]),
        (&[("JWT_SECRET_FILE", "/dev/zero")], &["JWT_SECRET_FILE=/dev/zero", "more than 65536 bytes"]),
    ] {
        let line = refused(&jwt(changes), said);
        assert!(!line.contains(CANARY) && !line.contains(SECRET), "{line}");
    }
}

#[tokio::test]
async fn secret_files_may_end_with_a_newline() {
    let database = "postgres://u:canary-8d1f@127.0.0.1:1/d";
    // One byte less is too short.
    let exact = "x".repeat(32);
    for end in ["", "\n", "\r\n"] {
        let (secret, url) = (file(&format!("{exact}{end}")), file(&format!("{database}{end}")));
        let from_files = [("JWT_SECRET_FILE", path(&secret)), ("DATABASE_URL", "-"), ("DATABASE_URL_FILE", path(&url))];
        let running = Running::start(&jwt(&from_files)).await;
        let token = TestKey::of_secret(&exact).sign(&claims(ISSUER, AUDIENCE, "u1"));
        let like = format!("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}");
        assert!(ask(&running, &like).starts_with("HTTP/1.1 503"), "authenticated, but there is no topic");
        running.terminate();
        running.ended().await;
    }
    let short = file(&"x".repeat(31));
    refused(&jwt(&[("JWT_SECRET_FILE", path(&short))]), &["JWT_SECRET has 31 bytes"]);
}

/// Sends a head, and returns everything that is received.
fn ask(running: &Running, head: &str) -> String {
    let mut stream = TcpStream::connect(&running.public).unwrap();
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[track_caller]
fn hides(output: &Output) {
    for said in [&output.stdout, &output.stderr] {
        let said = String::from_utf8_lossy(said);
        assert!(!said.contains(CANARY), "{said}");
    }
}

#[tokio::test]
async fn no_output_contains_a_secret() {
    let (secret, url) = (format!("{CANARY} and thirty-two bytes"), format!("postgres://u:{CANARY}@127.0.0.1:1/d"));
    let (secret_file, url_file) = (file(&secret), file(&url));
    let not_utf8 = file("");
    std::fs::write(not_utf8.path(), [CANARY.as_bytes(), b"\xff"].concat()).unwrap();
    let good = [("JWT_SECRET", secret.as_str()), ("DATABASE_URL", &url)];
    let of_files =
        [("JWT_SECRET_FILE", path(&secret_file)), ("DATABASE_URL", "-"), ("DATABASE_URL_FILE", path(&url_file))];
    for secrets in [&good[..], &of_files] {
        for failing in [
            &[("LISTEN_ADDR", "here")][..],
            &[("LISTEN_ADDR", "192.0.2.1:1")],
            &[("AUTH_MODE", "-")],
            &[("AUTH_MODE", "trusted-header")],
            &[("JWT_ISSUER", "-")],
            &[("JWT_ALGORITHMS", "RS256")],
            &[("JWT_PUBLIC_KEY", CANARY)],
            &[("JWT_SECRET", CANARY), ("JWT_SECRET_FILE", "-")],
            &[("JWT_SECRET", CANARY), ("JWT_SECRET_FILE", path(&secret_file))],
            &[("JWT_SECRET_FILE", path(&not_utf8)), ("JWT_SECRET", "-")],
            &[("JWT_PUBLIC_KEY_FILE", path(&secret_file))],
            &[("DATABASE_URL", CANARY), ("DATABASE_URL_FILE", "-")],
            &[("DATABASE_URL", "postgres://u:canary-8d1f@h:port/d"), ("DATABASE_URL_FILE", "-")],
            &[("DATABASE_URL_FILE", path(&secret_file)), ("DATABASE_URL", "-")],
            &[("DATABASE_URL", &url), ("DATABASE_URL_FILE", path(&url_file))],
        ] {
            let output = program(&jwt(&[secrets, failing].concat())).output().unwrap();
            assert!(!output.status.success(), "{failing:?}");
            hides(&output);
        }
        for asks in [&["--help"][..], &["-h"], &["--version"], &["healthcheck", "--help"], &["--no-such"]] {
            let output = program(&jwt(secrets)).args(asks).output().unwrap();
            hides(&output);
            if *asks == ["--help"] {
                let help = String::from_utf8_lossy(&output.stdout);
                for name in
                    ["JWT_SECRET", "JWT_SECRET_FILE", "JWT_PUBLIC_KEY_FILE", "DATABASE_URL", "DATABASE_URL_FILE"]
                {
                    assert!(help.contains(&format!("[env: {name}")), "{name}: {help}");
                }
            }
        }
        let running = Running::start(&jwt(&[secrets, &[("RUST_LOG", "trace")]].concat())).await;
        let token = TestKey::of_secret(&secret).sign(&claims(ISSUER, AUDIENCE, "u1"));
        let signature = token.rsplit_once('.').unwrap().1;
        for head in [
            format!("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}"),
            format!("GET /v1/products/p1/likes HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}"),
            format!("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x{token}"),
            format!("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {token}"),
            format!("PUT /v1/products/a%20b/like HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}"),
        ] {
            let answer = ask(&running, &head);
            assert!(answer.contains("/problems/"), "{answer}");
            assert!(!answer.contains(CANARY) && !answer.contains(signature), "{answer}");
        }
        running.terminate();
        let log = running.ended().await;
        assert!(log.contains("auth_mode=\"jwt\""), "{log}");
        assert!(!log.contains(CANARY) && !log.contains(signature), "{log}");
    }
}
