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
    /// The configured keys, whatever key id a token has.
    Set(Vec<VerificationKey>),
    Published(Box<Jwks>),
}

/// The claims of a verified token. Any JSON here: the validation rules check presence and type, and name
/// what is missing.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
    /// Separated by spaces (RFC 8693 section 4.2).
    #[serde(default)]
    scope: Value,
    /// Some issuers' name for it, also as a list.
    #[serde(default)]
    scp: Value,
}

impl Claims {
    fn has_scope(&self, scope: &str) -> bool {
        let in_text = |claim: &Value| claim.as_str().is_some_and(|text| text.split(' ').any(|one| one == scope));
        let in_list = |claim: &Value| claim.as_array().is_some_and(|list| list.iter().any(|one| one == scope));
        in_text(&self.scope) || in_text(&self.scp) || in_list(&self.scp)
    }
}

impl Jwt {
    /// The error says in one line why the settings are invalid and what to set instead.
    pub fn new(settings: &JwtSettings) -> Result<Self, String> {
        let rules = rules(settings)?;
        let sources = settings.key_sources();
        let keys = match (&settings.jwt_secret, &settings.jwt_public_key, &settings.jwt_jwks_url) {
            (Some(secret), None, None) => KeySource::Set(VerificationKey::of_secrets(secret.expose(), &rules)?),
            (None, Some(pem), None) => KeySource::Set(VerificationKey::of_pems(pem.expose(), &rules)?),
            (None, None, Some(url)) => {
                let algorithms = published_algorithms(settings)?;
                let max_age = settings.jwt_keys_max_age;
                KeySource::Published(Box::new(Jwks::new(
                    url,
                    algorithms,
                    rules.clone(),
                    settings.jwks_timing,
                    max_age,
                )?))
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
            KeySource::Set(keys) => own_algorithms(settings, keys, sources[0])?,
            KeySource::Published(jwks) => jwks.accepted.clone(),
        };
        let checks = checks();
        let cached = checks.with_label_values(&["cached"]);
        Ok(Self { keys, rules, accepted, verified: Verified::default(), checks, cached })
    }

    pub fn counted(&self) -> (IntCounterVec, IntCounterVec) {
        let fetches = match &self.keys {
            KeySource::Set(_) => jwks::fetches(),
            KeySource::Published(jwks) => jwks.fetches.clone(),
        };
        (self.checks.clone(), fetches)
    }

    pub fn log(&self) {
        let Rules { issuer, audiences, leeway, scope } = &self.rules;
        let keys = match &self.keys {
            KeySource::Set(_) => "set",
            KeySource::Published(jwks) => jwks.url.as_str(),
        };
        info!(
            auth_mode = "jwt",
            issuer,
            ?audiences,
            algorithms = ?self.accepted,
            leeway_seconds = leeway,
            scope,
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
            KeySource::Set(_) => std::future::pending().await,
            KeySource::Published(jwks) => jwks.keep(health).await,
        }
    }

    /// Returns the caller. None: there are no credentials.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Option<UserId>, AuthError> {
        let Some(token) = bearer::presented(headers).inspect_err(|_| self.count("refused"))? else {
            return Ok(None);
        };
        let keys = match &self.keys {
            KeySource::Set(_) => 0,
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
            KeySource::Set(keys) => self.verify_with(keys.iter().filter(|key| key.algorithm == *alg), 0, token),
            KeySource::Published(jwks) => {
                let keys = jwks.holding(kid.as_deref(), *alg).await?;
                self.verify_with(keys.find(kid.as_deref(), *alg)?, keys.version, token)
            }
        }
    }

    /// Verifies the token by the first of these keys that has signed it.
    fn verify_with<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a VerificationKey>,
        version: u64,
        token: &str,
    ) -> Result<UserId, Refusal> {
        let mut verified = Err(ErrorKind::InvalidSignature);
        for key in keys {
            verified = decode::<Claims>(token, &key.decoding, &key.validation).map_err(|error| error.into_kind());
            if !matches!(verified, Err(ErrorKind::InvalidSignature)) {
                break;
            }
        }
        let claims = verified.map_err(refusal)?.claims;
        if self.rules.scope.as_ref().is_some_and(|scope| !claims.has_scope(scope)) {
            return Err(Refusal::token("lacks the scope that is required here"));
        }
        let Claims { iss, sub, exp, .. } = claims;
        // jsonwebtoken also accepts a list that contains the issuer, which RFC 7519 doesn't know.
        if !iss.is_string() {
            return Err(Refusal::token("has no usable iss"));
        }
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
    let scope = settings.jwt_required_scope.clone();
    Ok(Rules { issuer, audiences: settings.jwt_audience.clone(), leeway, scope })
}

/// Each configured key has one algorithm; other ones in the settings are an error.
fn own_algorithms(settings: &JwtSettings, keys: &[VerificationKey], source: &str) -> Result<Vec<Algorithm>, String> {
    let mut own = Vec::new();
    for key in keys {
        if !own.contains(&key.algorithm) {
            own.push(key.algorithm);
        }
    }
    let set: Vec<_> = settings.jwt_algorithms.iter().map(|set| set.algorithm()).collect();
    if set.is_empty() || (set.iter().all(|set| own.contains(set)) && own.iter().all(|own| set.contains(own))) {
        return Ok(own);
    }
    let shown = |algorithms: &[Algorithm]| algorithms.iter().map(|of| format!("{of:?}")).collect::<Vec<_>>().join(",");
    let (set, own) = (shown(&set), shown(&own));
    Err(format!("JWT_ALGORITHMS={set} doesn't fit the key in {source}, which is for {own}: unset it"))
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
