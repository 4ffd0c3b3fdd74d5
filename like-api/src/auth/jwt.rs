//! `AUTH_MODE=jwt`: the caller is the `sub` of a signed token. jsonwebtoken verifies it; the settings, and
//! never the token, decide which keys and algorithms are used.

use std::convert::Infallible;

use axum::http::HeaderMap;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, decode, decode_header};
use like_common::health::Health;
use like_events::UserId;
use prometheus::{IntCounter, IntCounterVec, Opts};
use serde::Deserialize;
use serde_json::Value;
use tracing::info;

use super::bearer::{self, Refusal};
use super::error::AuthError;
use super::jwks::{self, Jwks};
use super::keys::{Rules, VerificationKey};
use super::verified::{Entry, Verified, now};
use crate::config::{JwtAlgorithm, JwtSettings};

pub struct Jwt {
    keys: KeySource,
    rules: Rules,
    accepted: Vec<Algorithm>,
    verified: Verified,
    checks: IntCounterVec,
    /// Of `checks`, resolved once: nearly every like counts here.
    cached: IntCounter,
}

enum KeySource {
    /// The configured key, whatever key id a token has.
    One(Box<VerificationKey>),
    Published(Box<Jwks>),
}

/// The claims of a verified token. Any JSON here: the validation rules check presence and type, and name
/// what is missing.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
}

impl Jwt {
    /// The error says in one line why the settings are invalid and what to set instead.
    pub fn new(settings: &JwtSettings) -> Result<Self, String> {
        let rules = rules(settings)?;
        let sources = settings.key_sources();
        let keys = match (&settings.jwt_secret, &settings.jwt_public_key, &settings.jwt_jwks_url) {
            (Some(secret), None, None) => {
                KeySource::One(Box::new(VerificationKey::of_secret(secret.expose(), &rules)?))
            }
            (None, Some(pem), None) => KeySource::One(Box::new(VerificationKey::of_pem(pem.expose(), &rules)?)),
            (None, None, Some(url)) => {
                let algorithms = published_algorithms(settings)?;
                KeySource::Published(Box::new(Jwks::new(url, algorithms, rules.clone(), settings.jwks_timing)?))
            }
            (None, None, None) => {
                return Err("AUTH_MODE=jwt needs the key that tokens are verified with: set one of JWT_SECRET, \
                            JWT_PUBLIC_KEY and JWT_JWKS_URL"
                    .to_owned());
            }
            _ => {
                let sources = sources.join(" and ");
                return Err(format!("{sources} are set: tokens are verified with one of them, unset the others"));
            }
        };
        let accepted = match &keys {
            KeySource::One(key) => one_algorithm(settings, key.algorithm, sources[0])?,
            KeySource::Published(jwks) => jwks.accepted.clone(),
        };
        let checks = checks();
        let cached = checks.with_label_values(&["cached"]);
        Ok(Self { keys, rules, accepted, verified: Verified::default(), checks, cached })
    }

    pub fn counted(&self) -> (IntCounterVec, IntCounterVec) {
        let fetches = match &self.keys {
            KeySource::One(_) => jwks::fetches(),
            KeySource::Published(jwks) => jwks.fetches.clone(),
        };
        (self.checks.clone(), fetches)
    }

    pub fn log(&self) {
        let Rules { issuer, audiences, leeway } = &self.rules;
        let keys = match &self.keys {
            KeySource::One(_) => "set",
            KeySource::Published(jwks) => jwks.url.as_str(),
        };
        info!(
            auth_mode = "jwt",
            issuer,
            ?audiences,
            algorithms = ?self.accepted,
            leeway_seconds = leeway,
            keys,
            "callers are authenticated by tokens of this issuer for this audience"
        );
    }

    pub fn fetches_keys(&self) -> bool {
        matches!(self.keys, KeySource::Published(_))
    }

    /// Keeps fetched keys current. Never returns.
    pub async fn keep_keys(&self, health: &Health) -> Infallible {
        match &self.keys {
            KeySource::One(_) => std::future::pending().await,
            KeySource::Published(jwks) => jwks.keep(health).await,
        }
    }

    /// Returns the caller. None: there are no credentials.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Option<UserId>, AuthError> {
        let Some(token) = bearer::presented(headers).inspect_err(|_| self.count("refused"))? else {
            return Ok(None);
        };
        let keys = match &self.keys {
            KeySource::One(_) => 0,
            KeySource::Published(jwks) => jwks.version(),
        };
        if let Some(user) = self.verified.user(token, keys, now()) {
            self.cached.inc();
            return Ok(Some(user));
        }
        // Boxed: it would make every request's future larger.
        let verified = Box::pin(self.verify(token)).await;
        self.count(match &verified {
            Ok(_) => "verified",
            Err(Refusal::NoKeys) => "no_keys",
            Err(_) => "refused",
        });
        Ok(Some(verified?))
    }

    fn count(&self, outcome: &str) {
        self.checks.with_label_values(&[outcome]).inc();
    }

    async fn verify(&self, token: &str) -> Result<UserId, Refusal> {
        bearer::check(token)?;
        // Not verified yet: only selects among our keys.
        let header = decode_header(token).map_err(|_| MALFORMED)?;
        let Header { alg, kid, crit, .. } = &header;
        if !self.accepted.contains(alg) {
            return Err(Refusal::token("has an algorithm that isn't accepted here"));
        }
        // RFC 7515 section 4.1.11: unknown critical extensions make a token invalid.
        if crit.is_some() {
            return Err(Refusal::token("has critical extensions, and none is understood here"));
        }
        match &self.keys {
            KeySource::One(key) => self.verify_with(key, 0, token),
            KeySource::Published(jwks) => {
                let keys = jwks.holding(kid.as_deref(), *alg).await?;
                self.verify_with(keys.find(kid.as_deref(), *alg)?, keys.version, token)
            }
        }
    }

    fn verify_with(&self, key: &VerificationKey, version: u64, token: &str) -> Result<UserId, Refusal> {
        let decoded = decode::<Claims>(token, &key.decoding, &key.validation);
        let Claims { sub, exp } = decoded.map_err(|error| refusal(error.into_kind()))?.claims;
        let user = UserId::parse(sub.as_str().unwrap_or_default())
            .map_err(|_| Refusal::token("has a sub that isn't 1 to 255 visible ASCII characters"))?;
        let until = (exp.as_f64().unwrap_or_default().round() as u64).saturating_add(self.rules.leeway);
        self.verified.keep(token, Entry { user: user.clone(), keys: version, until });
        Ok(user)
    }
}

pub fn checks() -> IntCounterVec {
    let help = "tokens by result: cached (verified before), verified, refused, no_keys (the issuer's keys could not be \
                fetched)";
    let checks = IntCounterVec::new(Opts::new("likes_token_checks_total", help), &["outcome"]).expect("a valid name");
    for outcome in ["cached", "verified", "refused", "no_keys"] {
        checks.with_label_values(&[outcome]);
    }
    checks
}

const MALFORMED: Refusal = Refusal::token("isn't well formed");

fn refusal(kind: ErrorKind) -> Refusal {
    match kind {
        ErrorKind::InvalidSignature => Refusal::token("has a wrong signature"),
        ErrorKind::ExpiredSignature => Refusal::token("has expired"),
        ErrorKind::ImmatureSignature => Refusal::token("isn't valid yet"),
        ErrorKind::InvalidIssuer => Refusal::token("is from another issuer"),
        ErrorKind::InvalidAudience => Refusal::token("is for another audience"),
        // The claim's name is a constant of the rules, not text of the token.
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            Refusal::Token(format!("has no usable {claim}").into())
        }
        _ => MALFORMED,
    }
}

fn rules(settings: &JwtSettings) -> Result<Rules, String> {
    let issuer = settings.jwt_issuer.clone().ok_or(
        "JWT_ISSUER is not set: expected the iss of the accepted tokens; without it, tokens of any issuer with the \
         same key would be accepted",
    )?;
    if settings.jwt_audience.is_empty() {
        return Err("JWT_AUDIENCE is not set: expected the aud of the accepted tokens; without it, tokens for \
                    another service would be accepted, and that service could like on behalf of its users"
            .to_owned());
    }
    let leeway = settings.jwt_leeway.as_secs();
    Ok(Rules { issuer, audiences: settings.jwt_audience.clone(), leeway })
}

/// A configured key has one algorithm; any other in the settings is an error.
fn one_algorithm(settings: &JwtSettings, of_key: Algorithm, source: &str) -> Result<Vec<Algorithm>, String> {
    match settings.jwt_algorithms.as_slice() {
        [] => {}
        [set] if set.algorithm() == of_key => {}
        set => {
            let set: Vec<_> = set.iter().map(|set| format!("{:?}", set.algorithm())).collect();
            let set = set.join(",");
            return Err(format!(
                "JWT_ALGORITHMS={set} doesn't fit the key in {source}, which is for {of_key:?}: unset it"
            ));
        }
    }
    Ok(vec![of_key])
}

fn published_algorithms(settings: &JwtSettings) -> Result<Vec<Algorithm>, String> {
    const EXPECTED: &str = "expected RS256, ES256, EdDSA or several of them, separated by commas";
    if settings.jwt_algorithms.is_empty() {
        return Err(format!("JWT_ALGORITHMS is not set, and JWT_JWKS_URL needs it: {EXPECTED}"));
    }
    if settings.jwt_algorithms.contains(&JwtAlgorithm::Hs256) {
        return Err(format!(
            "JWT_ALGORITHMS=HS256 can't go with JWT_JWKS_URL, since a published key is no secret: {EXPECTED}"
        ));
    }
    Ok(settings.jwt_algorithms.iter().map(|algorithm| algorithm.algorithm()).collect())
}
