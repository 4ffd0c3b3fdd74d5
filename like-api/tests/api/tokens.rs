//! Tokens (`AUTH_MODE=jwt`): which are accepted, and one test for each known way to forge one.

use like_testkit::until;
use std::str::FromStr;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header};
use like_api::config::{AuthMode, Config, JwtSettings};
use like_common::secrets::Secret;
use like_testkit::tokens::{TestKey, claims, in_seconds};
use rdkafka::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Answer, Api, NO_DATABASE, TestApp, config, record_at};

pub const ISSUER: &str = "https://issuer.example/";
pub const AUDIENCE: &str = "likes";
pub const SECRET: &str = "a secret of thirty-two bytes or more";
const LIKE: &str = "/v1/products/p1/like";

/// Settings of a service that accepts tokens by these rules. It has no topic, so an accepted token
/// gets `writes-unavailable`.
pub fn with_tokens(set: impl FnOnce(&mut JwtSettings)) -> Config {
    let mut config = config("none", NO_DATABASE);
    set_tokens(&mut config, set);
    config
}

fn set_tokens(config: &mut Config, set: impl FnOnce(&mut JwtSettings)) {
    config.auth.auth_mode = AuthMode::Jwt;
    config.auth.jwt.jwt_issuer = Some(ISSUER.to_owned());
    config.auth.jwt.jwt_audience = vec![AUDIENCE.to_owned(), "likes of another site".to_owned()];
    set(&mut config.auth.jwt);
}

pub fn secret(text: &str) -> Secret {
    Secret::from_str(text).unwrap()
}

/// A like with this `Authorization`.
pub async fn like_with(api: &Api, authorization: &[&str]) -> Answer {
    let headers: Vec<_> = authorization.iter().map(|value| ("Authorization", *value)).collect();
    api.send(Method::PUT, LIKE, &headers).await
}

/// A like with this token.
pub async fn like_by(api: &Api, token: &str) -> Answer {
    like_with(api, &[&format!("Bearer {token}")]).await
}

impl Answer {
    /// Asserts that the caller was authenticated, and only the topic was missing.
    #[track_caller]
    pub fn assert_known(&self) {
        self.assert_problem(503, "writes-unavailable");
    }

    /// Asserts a refusal without an error code: there were no credentials.
    #[track_caller]
    fn assert_missing(&self) {
        self.assert_problem(401, "unauthenticated");
        assert_eq!(self.header("www-authenticate"), "Bearer realm=\"likes\"");
    }

    /// Asserts that the header was refused.
    #[track_caller]
    fn assert_malformed(&self) {
        self.assert_problem(401, "unauthenticated");
        assert!(self.header("www-authenticate").contains("error=\"invalid_request\""), "{self:?}");
    }

    /// Asserts that the token was refused for this reason, by RFC 6750.
    #[track_caller]
    pub fn assert_refused(&self, why: &str) {
        self.assert_problem(401, "unauthenticated");
        let challenge =
            format!("Bearer realm=\"likes\", error=\"invalid_token\", error_description=\"the token {why}\"");
        assert_eq!(self.header("www-authenticate"), challenge);
        assert_eq!(self.json["errors"][0]["header"], "Authorization");
    }
}

async fn of_secret() -> (Api, TestKey) {
    of_secret_with(|_| ()).await
}

async fn of_secret_with(set: impl FnOnce(&mut JwtSettings)) -> (Api, TestKey) {
    let config = with_tokens(|jwt| {
        jwt.jwt_secret = Some(secret(SECRET));
        set(jwt);
    });
    (Api::start(config).await, TestKey::of_secret(SECRET))
}

/// A ready service, with what it needs to accept likes.
pub async fn of_secret_taking_likes() -> TestApp {
    TestApp::ready_with(1, |config| set_tokens(config, |jwt| jwt.jwt_secret = Some(secret(SECRET)))).await
}

async fn of_key(algorithm: Algorithm) -> (Api, TestKey) {
    let key = TestKey::generate("k1", algorithm);
    let api = Api::start(with_tokens(|jwt| jwt.jwt_public_key = Some(secret(&key.public_pem)))).await;
    (api, key)
}

/// Valid claims with these changes; null leaves a claim out.
fn but(changes: &Value) -> Value {
    let mut claims = claims(ISSUER, AUDIENCE, "u1");
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

#[tokio::test]
async fn like_belongs_to_the_tokens_subject() {
    let api = of_secret_taking_likes().await;
    let token = |user| TestKey::of_secret(SECRET).sign(&claims(ISSUER, AUDIENCE, user));
    let (ada, bob) = (token("auth0|ada"), token("bob"));
    for (offset, (scheme, token, user)) in
        (0..).zip([("bearer ", &ada, "auth0|ada"), ("BEARER  ", &bob, "bob"), ("Bearer ", &ada, "auth0|ada")])
    {
        // The header of the other mode is ignored.
        let bearer = format!("{scheme}{token}");
        let headers = [("Authorization", bearer.as_str()), ("X-User-Id", "mallory")];
        assert_eq!(api.send(Method::PUT, LIKE, &headers).await.status, StatusCode::ACCEPTED);
        let record = record_at(&api.topic.name, 0, offset);
        let event: Value = serde_json::from_slice(record.payload().unwrap()).unwrap();
        assert_eq!(event["userId"], user);
    }
    let likes = api.send(Method::GET, "/v1/products/p1/likes", &[("Authorization", &format!("Bearer {ada}"))]).await;
    assert_eq!((likes.status, &likes.json["liked"]), (StatusCode::OK, &json!(false)));
    assert!(likes.header("vary").to_ascii_lowercase().contains("authorization"), "{likes:?}");
    assert!(api.get("/v1/products/p1/likes").await.json.get("liked").is_none());
    let metrics = api.metrics().await;
    for line in ["outcome=\"verified\"} 2", "outcome=\"cached\"} 2", "outcome=\"refused\"} 0"] {
        assert!(metrics.contains(&format!("likes_token_checks_total{{{line}")), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn key_verifies_only_its_own_tokens() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (api, key) = of_key(algorithm).await;
        like_by(&api, &key.sign(&but(&json!({})))).await.assert_known();
        let other = TestKey::generate("k1", algorithm);
        like_by(&api, &other.sign(&but(&json!({})))).await.assert_refused("has a wrong signature");
    }
}

#[tokio::test]
async fn replaced_key_is_accepted_beside_its_successor() {
    let (old, new) = (TestKey::generate("k1", Algorithm::ES256), TestKey::generate("k2", Algorithm::EdDSA));
    let (third, stranger) = (TestKey::generate("k1", Algorithm::ES256), TestKey::generate("k1", Algorithm::ES256));
    let pems = [&*old.public_pem, &new.public_pem, &third.public_pem].concat();
    let api = Api::start(with_tokens(|jwt| jwt.jwt_public_key = Some(secret(&pems)))).await;
    for key in [&old, &new, &third] {
        like_by(&api, &key.sign(&but(&json!({})))).await.assert_known();
    }
    like_by(&api, &stranger.sign(&but(&json!({})))).await.assert_refused("has a wrong signature");

    let next = "another secret of thirty-two bytes or more";
    let api = Api::start(with_tokens(|jwt| jwt.jwt_secret = Some(secret(&format!("{next}\n{SECRET}\n"))))).await;
    for text in [next, SECRET] {
        like_by(&api, &TestKey::of_secret(text).sign(&but(&json!({})))).await.assert_known();
    }
}

#[tokio::test]
async fn required_scope_must_be_in_the_token() {
    let (api, key) = of_secret_with(|jwt| jwt.jwt_required_scope = Some("likes:write".to_owned())).await;
    for fine in [
        json!({ "scope": "openid likes:write" }),
        json!({ "scp": "likes:write" }),
        json!({ "scp": ["a", "likes:write"] }),
    ] {
        like_by(&api, &key.sign(&but(&fine))).await.assert_known();
    }
    for lacking in [json!({}), json!({ "scope": "likes:write2 likes" }), json!({ "scope": 7, "scp": [7] })] {
        like_by(&api, &key.sign(&but(&lacking))).await.assert_refused("lacks the scope that is required here");
    }
}

#[tokio::test]
async fn missing_token_gets_a_plain_challenge() {
    let (api, _) = of_secret().await;
    like_with(&api, &[]).await.assert_missing();
}

#[tokio::test]
async fn malformed_authorization_is_refused() {
    let (api, key) = of_secret().await;
    let token = key.sign(&but(&json!({})));
    let (bare, twice) = (&*token, &*format!("Bearer {token}, Bearer {token}"));
    for sent in ["", "Bearer", "Bearer ", "Bearer =", "Basic YTpi", "Bearer a b", "Bearer é", bare, twice] {
        like_with(&api, &[sent]).await.assert_malformed();
    }
}

#[tokio::test]
async fn attack_two_authorization_headers() {
    let (api, key) = of_secret().await;
    let token = format!("Bearer {}", key.sign(&but(&json!({}))));
    like_with(&api, &[&token]).await.assert_known();
    for both in [[&*token, &*token], [&*token, "Bearer x"], ["Bearer x", &*token]] {
        like_with(&api, &both).await.assert_malformed();
    }
}

#[tokio::test]
async fn attack_token_in_the_query() {
    let (api, key) = of_secret().await;
    let token = key.sign(&but(&json!({})));
    api.send(Method::PUT, &format!("{LIKE}?access_token={token}"), &[]).await.assert_missing();
}

#[tokio::test]
async fn attack_wrong_signature() {
    let (api, key) = of_secret().await;
    let (good, other) = (key.sign(&but(&json!({}))), key.sign(&but(&json!({ "sub": "u2" }))));
    like_by(&api, &good).await.assert_known();
    let parts: Vec<&str> = good.split('.').collect();
    let (others, empty) = (other.rsplit_once('.').unwrap().1, "");
    for signature in [others, empty, "AAAA"] {
        let forged = [parts[0], parts[1], signature].join(".");
        like_by(&api, &forged).await.assert_refused("has a wrong signature");
    }
    // The signature of a cached token, with the claims of another one.
    let forged = [parts[0], other.split('.').nth(1).unwrap(), parts[2]].join(".");
    like_by(&api, &forged).await.assert_refused("has a wrong signature");
    for text in ["a", "a+/~==", "a.b-c_d", "a.b", "a.b.c", "a.b.c.d", &[&good, "x"].concat().replace('.', "")] {
        like_by(&api, text).await.assert_refused("isn't well formed");
    }
}

#[tokio::test]
async fn attack_alg_none() {
    let (api, key) = of_secret().await;
    let good = key.sign(&but(&json!({})));
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none"}, {"alg":"None","typ":"JWT"}
    for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIiwidHlwIjoiSldUIn0"] {
        for signature in ["", parts[2]] {
            let forged = [header, parts[1], signature].join(".");
            like_by(&api, &forged).await.assert_refused("isn't well formed");
        }
    }
}

#[tokio::test]
async fn attack_public_key_as_hmac_secret() {
    let (api, key) = of_key(Algorithm::RS256).await;
    like_by(&api, &key.sign(&but(&json!({})))).await.assert_known();
    for pem in [key.public_pem.as_str(), key.public_pem.trim_end()] {
        let forged = TestKey::of_secret(pem).sign(&but(&json!({})));
        like_by(&api, &forged).await.assert_refused("has an algorithm that isn't accepted here");
    }
}

#[tokio::test]
async fn attack_own_key_in_the_header() {
    let (api, _) = of_key(Algorithm::ES256).await;
    let own = TestKey::generate("k1", Algorithm::ES256);
    let mut header = Header::new(Algorithm::ES256);
    header.jwk = Some(serde_json::from_value(own.jwk()).unwrap());
    header.jku = Some("http://127.0.0.1:1/keys".to_owned());
    header.x5u.clone_from(&header.jku);
    like_by(&api, &own.sign_with(&header, &but(&json!({})))).await.assert_refused("has a wrong signature");
}

#[tokio::test]
async fn attack_unknown_critical_extension() {
    let (api, key) = of_secret().await;
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    let token = key.sign_with(&header, &but(&json!({})));
    like_by(&api, &token).await.assert_refused("has critical extensions, and none is understood here");
}

#[tokio::test]
async fn attack_claims_that_break_a_rule() {
    const SUB: &str = "has a sub that isn't 1 to 255 visible ASCII characters";
    let (api, key) = of_secret().await;
    let longest = "u".repeat(255);
    for (changed, why) in [
        (json!({ "exp": in_seconds(-3_600) }), "has expired"),
        (json!({ "exp": 0 }), "has expired"),
        (json!({ "exp": null }), "has no usable exp"),
        (json!({ "exp": "never" }), "has no usable exp"),
        (json!({ "exp": -1 }), "has no usable exp"),
        (json!({ "exp": 1e300 }), "has no usable exp"),
        (json!({ "nbf": in_seconds(3_600) }), "isn't valid yet"),
        (json!({ "nbf": "soon" }), "has no usable nbf"),
        (json!({ "aud": "shop" }), "is for another audience"),
        (json!({ "aud": ["shop", "Likes"] }), "is for another audience"),
        (json!({ "aud": [] }), "is for another audience"),
        (json!({ "aud": null }), "has no usable aud"),
        (json!({ "aud": 7 }), "has no usable aud"),
        (json!({ "iss": "https://issuer.example" }), "is from another issuer"),
        (json!({ "iss": "https://evil.example/" }), "is from another issuer"),
        (json!({ "iss": "" }), "is from another issuer"),
        (json!({ "iss": null }), "has no usable iss"),
        (json!({ "iss": [ISSUER] }), "has no usable iss"),
        (json!({ "sub": "" }), SUB),
        (json!({ "sub": "a b" }), SUB),
        (json!({ "sub": "ü" }), SUB),
        (json!({ "sub": "a\u{0}" }), SUB),
        (json!({ "sub": format!("{longest}u") }), SUB),
        (json!({ "sub": null }), "has no usable sub"),
        (json!({ "sub": 7 }), "has no usable sub"),
    ] {
        like_by(&api, &key.sign(&but(&changed))).await.assert_refused(why);
    }
    for fine in [
        json!({ "nbf": in_seconds(-60) }),
        json!({ "aud": ["shop", AUDIENCE] }),
        json!({ "aud": "likes of another site" }),
        json!({ "sub": longest }),
    ] {
        like_by(&api, &key.sign(&but(&fine))).await.assert_known();
    }
}

#[tokio::test]
async fn attack_cached_token_after_expiry() {
    let (api, key) = of_secret_with(|jwt| jwt.jwt_leeway = Duration::ZERO).await;
    let token = key.sign(&but(&json!({ "exp": in_seconds(3) })));
    like_by(&api, &token).await;
    until("it expires in the cache", async || like_by(&api, &token).await.status == StatusCode::UNAUTHORIZED).await;
    like_by(&api, &token).await.assert_refused("has expired");
}

#[tokio::test]
async fn leeway_tolerates_clock_skew() {
    let (api, key) = of_secret_with(|jwt| jwt.jwt_leeway = Duration::from_secs(300)).await;
    for within in [json!({ "exp": in_seconds(-200) }), json!({ "nbf": in_seconds(250) })] {
        like_by(&api, &key.sign(&but(&within))).await.assert_known();
    }
    like_by(&api, &key.sign(&but(&json!({ "exp": in_seconds(-310) })))).await.assert_refused("has expired");
}

#[tokio::test]
async fn attack_token_of_ten_megabytes() {
    let (api, key) = of_secret().await;
    let long = key.sign(&but(&json!({ "padding": "x".repeat(7_000) })));
    for too_long in [long, "x".repeat(8_193)] {
        like_by(&api, &too_long).await.assert_refused("has more than 8192 characters");
    }
    like_by(&api, &"x".repeat(8_192)).await.assert_refused("isn't well formed");
    // hyper refuses a head of that size and closes the connection.
    let mut stream = TcpStream::connect(api.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!("PUT {LIKE} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer ");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let token = "x".repeat(10 * 1024 * 1024);
    // The service stops reading long before the end.
    let (_, answer) = tokio::join!(writing.write_all(token.as_bytes()), async {
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        answer
    });
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    like_by(&api, &key.sign(&but(&json!({})))).await.assert_known();
}
