//! `AUTH_MODE=trusted-header`: a gateway has authenticated the caller and names the user in a header.
//! Every client of the listener is trusted, so it must be loopback unless the operator permits more.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use like_events::UserId;
use tracing::info;

use super::error::AuthError;
use crate::config::Config;

pub struct TrustedHeader {
    name: HeaderName,
    /// The name as it was configured.
    shown: String,
    listen_addr: SocketAddr,
    allow_public: bool,
}

impl TrustedHeader {
    /// The error says in one line why the settings are invalid and what to set instead.
    pub fn new(config: &Config) -> Result<Self, String> {
        let (settings, listen_addr) = (&config.auth, config.listen_addr);
        let shown = settings.auth_user_header.clone();
        let name = HeaderName::try_from(&shown).map_err(|e| format!("AUTH_USER_HEADER='{shown}': {e}"))?;
        if config.browser.cors_allowed_headers.contains(&name) {
            return Err(format!("CORS_ALLOWED_HEADERS has {shown}, which only a gateway may set: leave it out"));
        }
        let allow_public = settings.auth_header_allow_public;
        if !listen_addr.ip().to_canonical().is_loopback() && !allow_public {
            return Err(format!(
                "AUTH_MODE=trusted-header trusts every client that sends {shown}, so LISTEN_ADDR={listen_addr} is refused: \
                 listen on 127.0.0.1, or set AUTH_HEADER_ALLOW_PUBLIC=true if only a gateway that sets \
                 the header itself can reach that address"
            ));
        }
        Ok(Self { name, shown, listen_addr, allow_public })
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn log(&self) {
        info!(
            auth_mode = "trusted-header",
            header = self.shown,
            listen_addr = %self.listen_addr,
            allow_public = self.allow_public,
            "callers are authenticated by a trusted header"
        );
    }

    /// Returns the caller. None: there is no header.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Option<UserId>, AuthError> {
        let mut values = headers.get_all(&self.name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(self.refused("occurs more than once"));
        }
        let user = value.to_str().ok().and_then(|text| UserId::parse(text).ok());
        user.map(Some).ok_or_else(|| self.refused("must be 1 to 255 visible ASCII characters"))
    }

    pub fn vary(&self) -> HeaderValue {
        HeaderValue::from_name(self.name.clone())
    }

    pub fn refused(&self, what: &str) -> AuthError {
        AuthError::Unauthenticated {
            challenge: format!("TrustedHeader header=\"{}\"", self.shown),
            header: self.shown.clone(),
            what: what.to_owned(),
        }
    }
}
