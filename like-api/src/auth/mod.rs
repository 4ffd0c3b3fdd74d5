//! Who is calling. One variant per `AUTH_MODE`; a handler only ever sees a [`UserId`] or nobody.

mod bearer;
mod error;
mod jwks;
mod jwt;
mod keys;
mod trusted_header;
mod verified;

use std::convert::Infallible;

use axum::http::{HeaderMap, HeaderValue};
use like_common::health::Health;
use like_events::UserId;
use prometheus::Registry;

pub use self::error::AuthError;
pub use self::jwks::KEYS_FETCHED;
use self::jwt::Jwt;
use self::trusted_header::TrustedHeader;
use crate::config::{AuthMode, Config};

/// How a caller is known.
#[derive(Debug)]
pub enum Auth {
    /// A gateway has checked who is calling and names the user in a header.
    TrustedHeader(TrustedHeader),
    /// A token that an issuer has signed names the user.
    Jwt(Box<Jwt>),
}

impl Auth {
    /// The error says in one line why these settings are refused and what to set instead.
    pub fn new(config: &Config) -> Result<Self, String> {
        let settings = &config.auth;
        match settings.auth_mode {
            AuthMode::TrustedHeader => {
                if let Some(name) = settings.jwt.named().first() {
                    return Err(format!(
                        "{name} is set, but AUTH_MODE=trusted-header checks no token: unset it, or set AUTH_MODE=jwt"
                    ));
                }
                TrustedHeader::new(settings, config.listen_addr).map(Self::TrustedHeader)
            }
            AuthMode::Jwt => Jwt::new(&settings.jwt).map(Box::new).map(Self::Jwt),
        }
    }

    /// Makes known what it counts: in either mode the same metrics, so that a page about them holds.
    pub fn register(&self, registry: &Registry) -> anyhow::Result<()> {
        let (checks, fetches) = match self {
            Self::TrustedHeader(_) => (jwt::checks(), jwks::fetches()),
            Self::Jwt(jwt) => jwt.counted(),
        };
        registry.register(Box::new(checks))?;
        Ok(registry.register(Box::new(fetches))?)
    }

    /// Says in the log what is trusted, so that nobody has to guess it from the settings.
    pub fn log(&self) {
        match self {
            Self::TrustedHeader(header) => header.log(),
            Self::Jwt(jwt) => jwt.log(),
        }
    }

    /// The condition of readiness that it waits for, if there is one.
    pub fn condition(&self) -> Option<&'static str> {
        match self {
            Self::Jwt(jwt) if jwt.fetches_keys() => Some(KEYS_FETCHED),
            _ => None,
        }
    }

    /// Keeps what it needs to know the callers up to date, and reports its condition. Never ends.
    pub async fn keep_current(&self, health: &Health) -> Infallible {
        match self {
            Self::TrustedHeader(_) => std::future::pending().await,
            Self::Jwt(jwt) => jwt.keep_keys(health).await,
        }
    }

    /// The caller; None for one without credentials, who may read. Bad credentials are refused
    /// even where none are needed: taking them for nobody would answer for somebody else.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Option<UserId>, AuthError> {
        match self {
            Self::TrustedHeader(header) => header.caller(headers),
            Self::Jwt(jwt) => jwt.caller(headers).await,
        }
    }

    /// The caller, who must be known.
    pub async fn known_caller(&self, headers: &HeaderMap) -> Result<UserId, AuthError> {
        self.caller(headers).await?.ok_or_else(|| match self {
            Self::TrustedHeader(header) => header.refused("is missing"),
            Self::Jwt(_) => bearer::Refusal::Missing.into(),
        })
    }

    /// What an answer that depends on the caller depends on: the value of `Vary`.
    pub fn vary(&self) -> HeaderValue {
        match self {
            Self::TrustedHeader(header) => header.vary(),
            Self::Jwt(_) => HeaderValue::from_static("authorization"),
        }
    }
}
