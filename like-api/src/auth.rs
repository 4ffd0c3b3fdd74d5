//! Who is calling. One variant per `AUTH_MODE`; a handler only ever sees a [`UserId`] or nobody.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use like_events::UserId;
use tracing::info;

use crate::config::{AuthMode, Config};
use crate::error::ApiError;

/// How a caller is known.
#[derive(Debug, Clone)]
pub enum Auth {
    /// A gateway has checked who is calling and names the user in a header. Whoever reaches the
    /// listener is believed.
    TrustedHeader {
        /// The header, for look-ups.
        header: HeaderName,
        /// The same as it was set, for people.
        shown: String,
        /// The same as a value, for `Vary`.
        vary: HeaderValue,
    },
}

impl Auth {
    /// The error says in one line why these settings are refused and what to set instead.
    pub fn new(config: &Config) -> Result<Self, String> {
        let settings = &config.auth;
        match settings.auth_mode {
            AuthMode::TrustedHeader => {
                let shown = settings.auth_user_header.clone();
                let header = HeaderName::try_from(&shown).map_err(|e| format!("AUTH_USER_HEADER='{shown}': {e}"))?;
                let listen = config.listen_addr;
                if !listen.ip().to_canonical().is_loopback() && !settings.auth_header_allow_public {
                    return Err(format!(
                        "AUTH_MODE=trusted-header believes whoever sends {shown}, so LISTEN_ADDR={listen} is refused: \
                         listen on 127.0.0.1, or set AUTH_HEADER_ALLOW_PUBLIC=true if only a gateway that sets \
                         the header itself can reach that address"
                    ));
                }
                Ok(Self::TrustedHeader { vary: HeaderValue::from_name(header.clone()), header, shown })
            }
        }
    }

    /// Says in the log what is trusted, so that nobody has to guess it from the settings.
    pub fn log(&self, config: &Config) {
        match self {
            Self::TrustedHeader { shown, .. } => info!(
                auth_mode = "trusted-header",
                header = shown,
                listen_addr = %config.listen_addr,
                allow_public = config.auth.auth_header_allow_public,
                "whoever reaches the listener is believed to be the user that this header names"
            ),
        }
    }

    /// The caller; None for one without credentials, who may read. Bad credentials are refused
    /// even where none are needed: taking them for nobody would answer for somebody else.
    #[expect(clippy::unused_async, reason = "a token's key may have to be fetched")]
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Option<UserId>, ApiError> {
        match self {
            Self::TrustedHeader { header, .. } => {
                let mut values = headers.get_all(header).iter();
                let Some(value) = values.next() else {
                    return Ok(None);
                };
                if values.next().is_some() {
                    return Err(self.unauthenticated("is there more than once"));
                }
                let user = value.to_str().ok().and_then(|text| UserId::parse(text).ok());
                user.map(Some).ok_or_else(|| self.unauthenticated("must be 1 to 255 visible ASCII characters"))
            }
        }
    }

    /// The caller, who must be known.
    pub async fn known_caller(&self, headers: &HeaderMap) -> Result<UserId, ApiError> {
        self.caller(headers).await?.ok_or_else(|| self.unauthenticated("is missing"))
    }

    /// What an answer that depends on the caller depends on: the value of `Vary`.
    pub fn vary(&self) -> HeaderValue {
        match self {
            Self::TrustedHeader { vary, .. } => vary.clone(),
        }
    }

    fn unauthenticated(&self, what: &str) -> ApiError {
        match self {
            Self::TrustedHeader { shown, .. } => ApiError::Unauthenticated {
                challenge: format!("TrustedHeader header=\"{shown}\""),
                header: shown.clone(),
                what: what.to_owned(),
            },
        }
    }
}
