//! How much is taken, from one caller and from all together. Over an address's or a user's rate:
//! 429; over what the service can bear: 503, early.

use std::net::IpAddr;

use axum::http::HeaderMap;
use like_events::UserId;
use prometheus::Registry;

use crate::config::LimitSettings;
use crate::error::ApiError;

/// All limits.
pub struct Limits {}

/// Held while a request is handled, until the head of its answer is known.
pub struct Permit {}

impl Limits {
    /// By settings; what it counts is made known to `registry`.
    #[expect(clippy::unnecessary_wraps, reason = "registering can fail")]
    pub fn new(_settings: &LimitSettings, _registry: &Registry) -> anyhow::Result<Self> {
        Ok(Self {})
    }

    /// Who sends the request: `peer`, or whom a proxy that may be believed names.
    pub fn client(&self, peer: IpAddr, _headers: &HeaderMap) -> IpAddr {
        peer
    }

    /// Lets a request of this address in, or says why not.
    #[expect(clippy::unnecessary_wraps, reason = "limits refuse")]
    pub fn admit(&self, _client: IpAddr) -> Result<Permit, ApiError> {
        Ok(Permit {})
    }

    /// Lets a request of this user pass, or says that there were too many.
    #[expect(clippy::unnecessary_wraps, reason = "limits refuse")]
    pub fn user(&self, _user: &UserId) -> Result<(), ApiError> {
        Ok(())
    }
}
