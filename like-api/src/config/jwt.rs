//! Settings of `AUTH_MODE=jwt`: issuer, audience and keys.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use jsonwebtoken::Algorithm;
use like_common::cli::{duration, duration_between};
use like_common::secrets::Secret;

/// A larger difference of clocks should be corrected, not tolerated.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// How tokens are verified. `Auth::new` checks that exactly one source of keys is set, with what it
/// requires.
#[derive(Args, Debug, Clone)]
pub struct JwtSettings {
    /// the secret that tokens are signed with (HS256), at least 32 bytes; several, one per line, while
    /// secrets are replaced
    #[arg(long, env = "JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub jwt_secret: Option<Secret>,

    /// the issuer's public key in PEM: RSA (RS256), EC P-256 (ES256) or Ed25519 (EdDSA); several, one
    /// after the other, while keys are replaced
    #[arg(long, env = "JWT_PUBLIC_KEY", value_name = "PEM", hide_env_values = true)]
    pub jwt_public_key: Option<Secret>,

    /// the URL of the issuer's JWK set: https, or http on this machine
    #[arg(long, env = "JWT_JWKS_URL", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_jwks_url: Option<String>,

    /// the accepted algorithms, separated by commas; required with a JWK set, by default the key's own
    #[arg(long, env = "JWT_ALGORITHMS", value_name = "ALG,…", value_enum, value_delimiter = ',', ignore_case = true)]
    pub jwt_algorithms: Vec<JwtAlgorithm>,

    /// the expected iss
    #[arg(long, env = "JWT_ISSUER", value_name = "ISS", value_parser = NonEmptyStringValueParser::new())]
    pub jwt_issuer: Option<String>,

    /// the accepted values of aud, separated by commas
    #[arg(long, env = "JWT_AUDIENCE", value_name = "AUD,…", value_delimiter = ',', value_parser = audience)]
    pub jwt_audience: Vec<String>,

    /// the tolerated clock difference for exp and nbf: a duration of at most 5m
    #[arg(long, env = "JWT_LEEWAY", value_name = "DURATION", default_value = "30s", value_parser = leeway)]
    pub jwt_leeway: Duration,

    /// a scope that every token must have, in scope or scp
    #[arg(long, env = "JWT_REQUIRED_SCOPE", value_name = "SCOPE", value_parser = scope)]
    pub jwt_required_scope: Option<String>,

    /// how long fetched keys are used while the issuer can't be asked, 5m to 30days; then tokens get 503
    #[arg(long, env = "JWT_KEYS_MAX_AGE", value_name = "DURATION", default_value = "24h", value_parser = keys_max_age)]
    pub jwt_keys_max_age: Duration,

    /// How often keys are fetched. Only tests change it.
    #[arg(skip)]
    pub jwks_timing: JwksTiming,
}

/// The signature algorithm of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JwtAlgorithm {
    /// HMAC.
    #[value(name = "HS256")]
    Hs256,
    /// RSA, PKCS#1 v1.5.
    #[value(name = "RS256")]
    Rs256,
    /// ECDSA on P-256.
    #[value(name = "ES256")]
    Es256,
    /// Ed25519.
    #[value(name = "EdDSA")]
    EdDsa,
}

/// When the issuer's keys are fetched.
#[derive(Debug, Clone, Copy)]
pub struct JwksTiming {
    /// The interval: a key that the issuer has revoked is accepted for at most this long.
    pub refresh: Duration,
    /// The least time between two fetches caused by tokens with unknown keys.
    pub pause: Duration,
    /// The longest wait for the issuer's answer.
    pub timeout: Duration,
}

impl Default for JwksTiming {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(300), pause: Duration::from_secs(5), timeout: Duration::from_secs(3) }
    }
}

impl JwtSettings {
    /// Returns the names of the key sources that are set.
    pub fn key_sources(&self) -> Vec<&'static str> {
        let sources = [
            ("JWT_SECRET", self.jwt_secret.is_some()),
            ("JWT_PUBLIC_KEY", self.jwt_public_key.is_some()),
            ("JWT_JWKS_URL", self.jwt_jwks_url.is_some()),
        ];
        sources.into_iter().filter_map(|(name, set)| set.then_some(name)).collect()
    }

    /// Returns the names of all settings that are set and have no default.
    pub fn named(&self) -> Vec<&'static str> {
        let others = [
            ("JWT_ALGORITHMS", !self.jwt_algorithms.is_empty()),
            ("JWT_ISSUER", self.jwt_issuer.is_some()),
            ("JWT_AUDIENCE", !self.jwt_audience.is_empty()),
            ("JWT_REQUIRED_SCOPE", self.jwt_required_scope.is_some()),
        ];
        let others = others.into_iter().filter_map(|(name, set)| set.then_some(name));
        self.key_sources().into_iter().chain(others).collect()
    }
}

impl JwtAlgorithm {
    /// Returns jsonwebtoken's name of it.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Hs256 => Algorithm::HS256,
            Self::Rs256 => Algorithm::RS256,
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

fn audience(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("one of them is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// A scope-token of RFC 6749 section 3.3.
fn scope(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
    if fits { Ok(text.to_owned()) } else { Err("expected one scope, without spaces and quotes".to_owned()) }
}

fn keys_max_age(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_mins(5), Duration::from_hours(30 * 24))
}

fn leeway(text: &str) -> Result<Duration, String> {
    let leeway = duration(text)?;
    if leeway <= LEEWAY_MAX { Ok(leeway) } else { Err("expected at most 5m".to_owned()) }
}
