//! Settings of authentication.

use axum::http::HeaderName;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::jwt::JwtSettings;
use super::limits::network;

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

    /// networks of the gateways that set the header, such as 10.1.0.0/16; required where LISTEN_ADDR
    /// isn't loopback
    #[arg(long, env = "AUTH_HEADER_FROM", value_name = "CIDR,…", value_delimiter = ',', value_parser = network)]
    pub auth_header_from: Vec<IpNet>,

    /// networks of backends that may name the user of each like in the body of POST /v1/likes, such as
    /// 10.2.0.0/16 (trusted-header); never that of a gateway which passes browsers' bodies on
    #[arg(long, env = "BATCH_USER_IDS_FROM", value_name = "CIDR,…", value_delimiter = ',', value_parser = network)]
    pub batch_user_ids_from: Vec<IpNet>,

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
