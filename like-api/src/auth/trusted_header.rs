//! `AUTH_MODE=trusted-header`: a gateway has authenticated the caller and names the user in a header.
//! On loopback every client is trusted; elsewhere only the networks in `AUTH_HEADER_FROM`.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use like_events::UserId;
use tracing::info;

use super::error::AuthError;
use crate::config::Config;

pub struct TrustedHeader {
    name: HeaderName,
    /// The name as it was configured.
    shown: String,
    listen_addr: SocketAddr,
    /// Empty: everybody who reaches the listener, which is loopback.
    from: Vec<IpNet>,
    /// The backends that may name users in a body.
    users_from: Vec<IpNet>,
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
        let from = settings.auth_header_from.clone();
        if !listen_addr.ip().to_canonical().is_loopback() && from.is_empty() {
            return Err(format!(
                "AUTH_MODE=trusted-header trusts every client that sends {shown}, so LISTEN_ADDR={listen_addr} is refused: \
                 listen on 127.0.0.1, or set AUTH_HEADER_FROM to the networks of the gateways that set the header"
            ));
        }
        Ok(Self { name, shown, listen_addr, from, users_from: settings.batch_user_ids_from.clone() })
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn log(&self) {
        info!(
            auth_mode = "trusted-header",
            header = self.shown,
            listen_addr = %self.listen_addr,
            from = ?self.from,
            batch_user_ids_from = ?self.users_from,
            "callers are authenticated by a trusted header"
        );
    }

    /// Returns the caller. None: there is no header.
    pub fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Option<UserId>, AuthError> {
        let mut values = headers.get_all(&self.name).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(self.refused("occurs more than once"));
        }
        if !self.from.is_empty() && !self.from.iter().any(|network| network.contains(&peer)) {
            return Err(self.refused("is accepted from a gateway only"));
        }
        // Proxies join two headers by a comma: one of the values may be the caller's own.
        if value.as_bytes().contains(&b',') {
            return Err(self.refused("must not contain a comma"));
        }
        let user = value.to_str().ok().and_then(|text| UserId::parse(text).ok());
        user.map(Some).ok_or_else(|| self.refused("must be 1 to 255 visible ASCII characters"))
    }

    pub fn may_name_users(&self, peer: IpAddr) -> bool {
        self.users_from.iter().any(|network| network.contains(&peer))
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
