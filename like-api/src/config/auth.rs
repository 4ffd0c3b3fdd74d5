//! Settings of authentication.

use axum::http::HeaderName;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::jwt::JwtSettings;

/// How callers are authenticated.
#[derive(Args, Debug, Clone)]
pub struct AuthSettings {
    /// how callers are identified; there is no default, because a wrong one would let anyone act as
    /// any user
    #[arg(long, env = "AUTH_MODE", value_enum, value_name = "MODE")]
    pub auth_mode: AuthMode,

    /// the header with the user's id (trusted-header)
    #[arg(long, env = "AUTH_USER_HEADER", value_name = "NAME", default_value = "X-User-Id", value_parser = header_name)]
    pub auth_user_header: String,

    /// true allows trusted-header on an address other than loopback; safe only where nothing but a
    /// gateway that sets the header reaches the listener
    #[arg(
        long,
        env = "AUTH_HEADER_ALLOW_PUBLIC",
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub auth_header_allow_public: bool,

    #[command(flatten)]
    pub jwt: JwtSettings,
}

/// One value for each variant of [`crate::auth::Auth`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// A gateway authenticates the caller and names the user in a header.
    TrustedHeader,
    /// A token in the Authorization header, signed by an issuer, names the user.
    Jwt,
}

fn header_name(text: &str) -> Result<String, String> {
    // Kept as written, for messages: HTTP ignores the case of names.
    HeaderName::try_from(text)
        .map(|_| text.to_owned())
        .map_err(|_| "not a header name: expected a name such as X-User-Id".to_owned())
}
