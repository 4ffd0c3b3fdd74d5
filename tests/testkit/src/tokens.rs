//! A token issuer: new keys for each test, tokens signed with them, and a server that publishes the
//! keys, counts requests and can fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::http::Server;

pub struct TestKey {
    /// The `kid`.
    pub id: String,
    pub algorithm: Algorithm,
    signing: EncodingKey,
    /// Empty for a secret.
    pub public_pem: String,
}

impl TestKey {
    /// An RSA (slow: half a second), P-256 or Ed25519 key.
    pub fn generate(id: &str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::RS256 => {
                let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("an RSA key");
                let der = key.as_der().expect("PKCS#8").as_ref().to_vec();
                KeyPair::from_pkcs8_der_and_sign_algo(&der.into(), &rcgen::PKCS_RSA_SHA256)
            }
            Algorithm::ES256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Algorithm::EdDSA => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            other => panic!("no key pair for {other:?}"),
        };
        let pair = pair.expect("a key pair");
        let pem = pair.serialize_pem();
        let signing = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        let signing = signing.expect("a signing key");
        Self { id: id.to_owned(), algorithm, signing, public_pem: pair.public_key_pem() }
    }

    /// A shared secret, for HS256.
    pub fn of_secret(secret: &str) -> Self {
        let signing = EncodingKey::from_secret(secret.as_bytes());
        Self { id: "secret".to_owned(), algorithm: Algorithm::HS256, signing, public_pem: String::new() }
    }

    /// The public key as a JWK.
    pub fn jwk(&self) -> Value {
        let pem = self.public_pem.as_bytes();
        let key = match self.algorithm {
            Algorithm::RS256 => DecodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => DecodingKey::from_ec_pem(pem),
            _ => DecodingKey::from_ed_pem(pem),
        };
        let mut jwk = Jwk::from_decoding_key(&key.expect("a public key"), Some(self.algorithm)).expect("a JWK");
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).expect("JSON")
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        self.sign_with(&header, claims)
    }

    /// A token with this header.
    pub fn sign_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.signing).expect("a token")
    }
}

/// Seconds since 1970, `seconds` from now.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    now.cast_signed() + seconds
}

/// Claims that are valid for 15 minutes.
pub fn claims(issuer: &str, audience: &str, user: &str) -> Value {
    json!({ "iss": issuer, "aud": audience, "sub": user, "exp": in_seconds(900) })
}

/// What the server does with a request.
#[derive(Debug, Clone)]
enum Mode {
    /// Responds with this body.
    Respond(String),
    /// Closes the connection.
    Close,
    /// Waits for another mode.
    Wait,
}

/// A server with a set of keys.
pub struct TestIssuer {
    /// URL of the keys.
    pub url: String,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
    _server: Server,
}

impl TestIssuer {
    /// Starts a server that publishes these keys.
    pub async fn start(keys: &[&TestKey]) -> Self {
        let mode = Arc::new(Mutex::new(Mode::Close));
        let asked = Arc::new(AtomicUsize::new(0));
        let (modes, requests) = (Arc::clone(&mode), Arc::clone(&asked));
        let server = Server::start(move |_, _| {
            requests.fetch_add(1, Ordering::SeqCst);
            respond(Arc::clone(&modes))
        })
        .await;
        let issuer = Self { url: format!("{}/keys", server.url), mode, asked, _server: server };
        issuer.publish(keys);
        issuer
    }

    /// Publishes these keys and no others.
    pub fn publish(&self, keys: &[&TestKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
        self.answer_with(&json!({ "keys": keys }).to_string());
    }

    /// Sets the response body.
    pub fn answer_with(&self, body: &str) {
        *self.mode.lock().expect("mode") = Mode::Respond(body.to_owned());
    }

    /// Closes every connection until the next `publish`.
    pub fn go_away(&self) {
        *self.mode.lock().expect("mode") = Mode::Close;
    }

    /// Leaves requests unanswered until the next `publish`.
    pub fn fall_silent(&self) {
        *self.mode.lock().expect("mode") = Mode::Wait;
    }

    /// The number of requests.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn respond(mode: Arc<Mutex<Mode>>) -> Option<String> {
    loop {
        let mode = mode.lock().expect("mode").clone();
        match mode {
            Mode::Close => return None,
            Mode::Wait => tokio::time::sleep(Duration::from_millis(10)).await,
            Mode::Respond(body) => return Some(body),
        }
    }
}
