//! Keys that an issuer publishes (`JWT_JWKS_URL`): fetched, replaced and withdrawn, and the answers while
//! the issuer is unreachable.

use std::time::Duration;

use jsonwebtoken::{Algorithm, Header};
use like_api::config::{Config, JwksTiming, JwtAlgorithm};
use like_testkit::tokens::{TestIssuer, TestKey, claims};
use like_testkit::{eventually, until};
use reqwest::StatusCode;
use serde_json::json;

use crate::common::{Answer, Api};
use crate::process::{Running, client};
use crate::secrets::jwt;
use crate::tokens::{AUDIENCE, ISSUER, like_by, with_tokens};

/// Longer than any test.
const NEVER: Duration = Duration::from_hours(1);
const SOON: Duration = Duration::from_millis(50);

const UNKNOWN: &str = "names a key (kid) that its issuer doesn't have";

fn settings(issuer: &TestIssuer, refresh: Duration, pause: Duration) -> Config {
    with_tokens(|jwt| {
        jwt.jwt_jwks_url = Some(issuer.url.clone());
        jwt.jwt_algorithms = vec![JwtAlgorithm::Es256, JwtAlgorithm::EdDsa];
        jwt.jwks_timing = JwksTiming { refresh, pause, timeout: Duration::from_secs(50) };
    })
}

async fn api(issuer: &TestIssuer, refresh: Duration, pause: Duration) -> Api {
    Api::start(settings(issuer, refresh, pause)).await
}

/// Why readiness lacks the keys. None: it has them.
async fn waiting(api: &Api) -> Option<String> {
    api.waiting_for("jwks").await
}

async fn fetched(api: &Api) {
    until("the keys were fetched", async || waiting(api).await.is_none()).await;
}

/// A service that has fetched the keys.
async fn with_keys(issuer: &TestIssuer, refresh: Duration, pause: Duration) -> Api {
    let api = api(issuer, refresh, pause).await;
    fetched(&api).await;
    api
}

/// Sends likes until the answer has this status.
async fn answered(what: &str, status: StatusCode, api: &Api, token: &str) -> Answer {
    eventually(what, async || Some(like_by(api, token).await).filter(|answer| answer.status == status)).await
}

/// An authenticated like fails for the missing topic.
const KNOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

fn es256(id: &str) -> TestKey {
    TestKey::generate(id, Algorithm::ES256)
}

fn token(key: &TestKey, user: &str) -> String {
    key.sign(&claims(ISSUER, AUDIENCE, user))
}

/// A token whose header names this key id.
fn token_naming(key: &TestKey, id: Option<&str>) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = id.map(str::to_owned);
    key.sign_with(&header, &claims(ISSUER, AUDIENCE, "u1"))
}

#[tokio::test]
async fn readiness_needs_one_fetch_of_keys() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    issuer.fall_silent();
    let api = api(&issuer, SOON, SOON).await;
    until("it asks", async || issuer.asked() == 1).await;
    assert_eq!(waiting(&api).await.as_deref(), Some("not there yet"));
    issuer.go_away();
    let why = eventually("not ready", async || waiting(&api).await.filter(|why| why.contains(&issuer.url))).await;
    assert!(why.contains("can't be fetched"), "{why}");
    issuer.publish(&[&key]);
    fetched(&api).await;
    like_by(&api, &token(&key, "u1")).await.assert_known();
    issuer.go_away();
    let asked = issuer.asked();
    until("more fetches have failed", async || issuer.asked() > asked + 2).await;
    assert_eq!(waiting(&api).await, None);
    // A new token, which isn't cached.
    like_by(&api, &token(&key, "u2")).await.assert_known();
}

#[tokio::test]
async fn new_key_is_fetched_on_demand() {
    let (old, new) = (es256("k1"), TestKey::generate("k2", Algorithm::EdDSA));
    let issuer = TestIssuer::start(&[&old]).await;
    let api = with_keys(&issuer, NEVER, SOON).await;
    issuer.publish(&[&old, &new]);
    answered("the new key is known", KNOWN, &api, &token(&new, "u1")).await.assert_known();
    like_by(&api, &token(&old, "u1")).await.assert_known();
}

#[tokio::test]
async fn waiting_tokens_share_one_fetch() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    issuer.fall_silent();
    let api = api(&issuer, NEVER, NEVER).await;
    until("it asks for the keys", async || issuer.asked() == 1).await;
    let token = token(&key, "u1");
    let likes = futures::future::join_all((0..50).map(|_| like_by(&api, &token)));
    let (answers, ()) = tokio::join!(likes, async {
        let waiting = async || api.port.metric("http_server_active_requests", "").await == 50.0;
        until("all wait for the keys", waiting).await;
        issuer.publish(&[&key]);
    });
    answers.iter().for_each(Answer::assert_known);
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn attack_flood_of_unknown_keys() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    let api = with_keys(&issuer, NEVER, NEVER).await;
    for n in 0..50 {
        like_by(&api, &token_naming(&key, Some(&format!("made up {n}")))).await.assert_refused(UNKNOWN);
    }
    assert_eq!(issuer.asked(), 1, "no further fetch within the pause");
    like_by(&api, &token(&key, "u1")).await.assert_known();
}

#[tokio::test]
async fn attack_path_in_key_id() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    let api = with_keys(&issuer, NEVER, NEVER).await;
    for id in ["../../../../dev/null", "/etc/passwd", "http://127.0.0.1:1/keys", "k1'; --", "k1\u{0}", ""] {
        like_by(&api, &token_naming(&key, Some(id))).await.assert_refused(UNKNOWN);
    }
}

#[tokio::test]
async fn attack_withdrawn_key() {
    let (stolen, kept) = (es256("k1"), es256("k2"));
    let issuer = TestIssuer::start(&[&stolen, &kept]).await;
    let api = with_keys(&issuer, SOON, NEVER).await;
    let token_of_stolen = token(&stolen, "u1");
    // Twice: the second is cached.
    for _ in 0..2 {
        like_by(&api, &token_of_stolen).await.assert_known();
    }
    issuer.publish(&[&kept]);
    let refused = answered("the key is gone", StatusCode::UNAUTHORIZED, &api, &token_of_stolen).await;
    refused.assert_refused(UNKNOWN);
    like_by(&api, &token(&kept, "u1")).await.assert_known();
    // The last one, too: the issuer decides.
    issuer.publish(&[]);
    answered("no key is left", StatusCode::UNAUTHORIZED, &api, &token(&kept, "u1")).await.assert_refused(UNKNOWN);
}

#[tokio::test]
async fn unknown_key_without_issuer_is_503() {
    let (old, new) = (es256("k1"), es256("k2"));
    let issuer = TestIssuer::start(&[&old]).await;
    let api = with_keys(&issuer, NEVER, SOON).await;
    issuer.go_away();
    let away = async || {
        let answer = like_by(&api, &token(&new, "u1")).await;
        (answer.json["type"] == "/problems/keys-unavailable").then_some(answer)
    };
    let answer = eventually("the issuer is away", away).await;
    answer.assert_unavailable("keys-unavailable", "");
    like_by(&api, &token(&old, "u1")).await.assert_known();
    issuer.publish(&[&old, &new]);
    let known = async || like_by(&api, &token(&new, "u1")).await.json["type"] == "/problems/writes-unavailable";
    until("the issuer is back", known).await;
}

#[tokio::test]
async fn unsuitable_published_key_is_ignored() {
    let key = es256("k1");
    let with = |name: &str, value: &str| {
        let mut jwk = key.jwk();
        jwk[name] = json!(value);
        jwk
    };
    let oct = json!({ "kty": "oct", "kid": "k1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA" });
    let mut for_encrypting = key.jwk();
    for_encrypting["key_ops"] = json!(["encrypt"]);
    let rsa = TestKey::generate("k1", Algorithm::RS256).jwk();
    for jwk in [with("use", "enc"), with("alg", "ES384"), with("crv", "P-384"), for_encrypting, oct, rsa, json!(7)] {
        let issuer = TestIssuer::start(&[]).await;
        issuer.answer_with(&json!({ "keys": [jwk] }).to_string());
        let api = api(&issuer, NEVER, NEVER).await;
        let why = eventually("it says why", async || waiting(&api).await.filter(|why| why.contains("no key"))).await;
        assert!(why.contains("JWT_ALGORITHMS=[ES256, EdDSA]"), "{why}");
        // The token may become valid with later keys.
        like_by(&api, &token(&key, "u1")).await.assert_problem(503, "keys-unavailable");
    }
    let issuer = TestIssuer::start(&[]).await;
    issuer.answer_with(&json!({ "keys": [7, with("use", "enc"), with("use", "sig")] }).to_string());
    let api = with_keys(&issuer, NEVER, NEVER).await;
    like_by(&api, &token(&key, "u1")).await.assert_known();
}

#[tokio::test]
async fn token_without_key_id_needs_a_single_key() {
    let (key, other) = (es256("k1"), es256("k2"));
    let token = token_naming(&key, None);
    let issuer = TestIssuer::start(&[&key, &TestKey::generate("k3", Algorithm::EdDSA)]).await;
    let one_fits = with_keys(&issuer, NEVER, NEVER).await;
    like_by(&one_fits, &token).await.assert_known();
    issuer.publish(&[&key, &other]);
    let two_fit = with_keys(&issuer, NEVER, NEVER).await;
    like_by(&two_fit, &token).await.assert_refused("names no key (kid), and there isn't just one for its algorithm");
}

#[tokio::test]
async fn keys_with_one_id_are_both_tried() {
    let (key, namesake, stranger) = (es256("k1"), es256("k1"), es256("k1"));
    let issuer = TestIssuer::start(&[&key, &namesake]).await;
    let api = with_keys(&issuer, NEVER, NEVER).await;
    for key in [&key, &namesake] {
        like_by(&api, &token(key, "u1")).await.assert_known();
    }
    like_by(&api, &token(&stranger, "u1")).await.assert_refused("has a wrong signature");
}

#[tokio::test]
async fn keys_expire_without_their_issuer() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    let mut config = settings(&issuer, SOON, SOON);
    config.auth.jwt.jwt_keys_max_age = Duration::from_millis(500);
    let api = Api::start(config).await;
    fetched(&api).await;
    let token = token(&key, "u1");
    like_by(&api, &token).await.assert_known();
    issuer.go_away();
    let gone = async || (like_by(&api, &token).await.json["type"] == "/problems/keys-unavailable").then_some(());
    eventually("the keys are too old", gone).await;
    issuer.publish(&[&key]);
    let back = async || like_by(&api, &token).await.json["type"] == "/problems/writes-unavailable";
    until("the issuer is back", back).await;
}

#[tokio::test]
async fn key_of_another_algorithm_is_refused() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    let api = with_keys(&issuer, NEVER, NEVER).await;
    let other = TestKey::generate("k1", Algorithm::EdDSA);
    like_by(&api, &token(&other, "u1")).await.assert_refused("has another algorithm than its key");
}

#[tokio::test]
async fn unused_keys_are_logged_once() {
    let (key, unused) = (es256("k1"), TestKey::generate("k2", Algorithm::EdDSA));
    let issuer = TestIssuer::start(&[&key, &unused]).await;
    let running = Running::start(&jwt(&[("JWT_JWKS_URL", &issuer.url), ("JWT_ALGORITHMS", "ES256")])).await;
    let url = format!("http://{}/v1/products/p1/like", running.public);
    let unknown = client().put(url).bearer_auth(token_naming(&key, Some("k3")));
    until("an unknown key causes another fetch", async || {
        unknown.try_clone().unwrap().send().await.unwrap();
        issuer.asked() > 1
    })
    .await;
    running.terminate();
    let log = running.ended().await;
    assert_eq!(log.matches("issuer keys not used").count(), 1, "{log}");
}

#[tokio::test]
async fn invalid_key_set_is_reported() {
    let key = es256("k1");
    let issuer = TestIssuer::start(&[&key]).await;
    let padding = "x".repeat(600 * 1024);
    let too_large = json!({ "keys": [key.jwk()], "padding": padding }).to_string();
    for (answer, said) in [("<html>", "not a JWK set"), ("{}", "not a JWK set"), (&too_large, "more than 524288 bytes")]
    {
        issuer.answer_with(answer);
        let api = api(&issuer, SOON, SOON).await;
        eventually(said, async || waiting(&api).await.filter(|why| why.contains(said))).await;
    }
}
