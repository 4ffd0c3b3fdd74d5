//! Authentication of the caller. One variant per `AUTH_MODE`; handlers see a [`UserId`] or None.

mod bearer;
mod error;
mod jwks;
mod jwt;
mod keys;
mod trusted_header;
mod verified;

use std::convert::Infallible;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue};
use like_common::health::Health;
use like_common::metrics::add;
use like_events::UserId;
use prometheus::Registry;

pub use self::error::AuthError;
pub use self::jwks::KEYS_FETCHED;
use self::jwt::Jwt;
use self::trusted_header::TrustedHeader;
use crate::config::{AuthMode, Config};

pub enum Auth {
    /// A gateway has authenticated the caller and names the user in a header.
    TrustedHeader(TrustedHeader),
    /// A token that an issuer has signed names the user.
    Jwt(Box<Jwt>),
}

impl Auth {
    /// The error says in one line why the settings are invalid and what to set instead.
    pub fn new(config: &Config) -> Result<Self, String> {
        let settings = &config.auth;
        match settings.auth_mode {
            AuthMode::TrustedHeader => {
                if let Some(name) = settings.jwt.named().first() {
                    return Err(format!(
                        "{name} is set, but AUTH_MODE=trusted-header checks no token: unset it, or set AUTH_MODE=jwt"
                    ));
                }
                TrustedHeader::new(config).map(Self::TrustedHeader)
            }
            AuthMode::Jwt if !settings.batch_user_ids_from.is_empty() => {
                Err("BATCH_USER_IDS_FROM is set, but with AUTH_MODE=jwt only a token names a user: unset it, or set \
                 AUTH_MODE=trusted-header"
                    .to_owned())
            }
            AuthMode::Jwt => Jwt::new(&settings.jwt).map(Box::new).map(Self::Jwt),
        }
    }

    /// Registers the metrics, the same in both modes, so that dashboards work with either.
    pub fn register(&self, registry: &Registry) {
        let (checks, fetches) = match self {
            Self::TrustedHeader(_) => (jwt::checks(), jwks::fetches()),
            Self::Jwt(jwt) => jwt.counted(),
        };
        add(registry, Ok(checks));
        add(registry, Ok(fetches));
    }

    pub fn log(&self) {
        match self {
            Self::TrustedHeader(header) => header.log(),
            Self::Jwt(jwt) => jwt.log(),
        }
    }

    pub fn condition(&self) -> Option<&'static str> {
        match self {
            Self::Jwt(jwt) if jwt.fetches_keys() => Some(KEYS_FETCHED),
            _ => None,
        }
    }

    /// Keeps fetched keys current and reports the readiness condition. Never returns.
    pub async fn keep_current(&self, health: &Health) -> Infallible {
        match self {
            Self::TrustedHeader(_) => std::future::pending().await,
            Self::Jwt(jwt) => jwt.keep_keys(health).await,
        }
    }

    /// Returns the caller of a connection. None: there are no credentials, which suffices for reads. Invalid credentials
    /// are refused everywhere: treating them as none would answer for another caller.
    pub async fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Option<UserId>, AuthError> {
        match self {
            Self::TrustedHeader(header) => header.caller(headers, peer),
            Self::Jwt(jwt) => jwt.caller(headers).await,
        }
    }

    pub async fn known_caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<UserId, AuthError> {
        self.caller(headers, peer).await?.ok_or_else(|| match self {
            Self::TrustedHeader(header) => header.refused("is missing"),
            Self::Jwt(_) => bearer::Refusal::Missing.into(),
        })
    }

    /// Whether the likes that this peer sends together may name their users.
    pub fn may_name_users(&self, peer: IpAddr) -> bool {
        matches!(self, Self::TrustedHeader(header) if header.may_name_users(peer))
    }

    /// Returns the header that names the caller, as it was configured.
    pub fn user_header(&self) -> Option<&str> {
        match self {
            Self::TrustedHeader(header) => Some(header.shown()),
            Self::Jwt(_) => None,
        }
    }

    /// Returns the `Vary` header of answers that depend on the caller.
    pub fn vary(&self) -> HeaderValue {
        match self {
            Self::TrustedHeader(header) => header.vary(),
            Self::Jwt(_) => HeaderValue::from_static("authorization"),
        }
    }
}
