//! Settings of what answers tell about the service itself: its address, its pages, who may cache.

use axum::http::HeaderValue;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use reqwest::Url;

use super::auth::AuthMode;

#[derive(Args, Debug, Clone)]
pub struct SiteSettings {
    /// the URL at which clients reach this API, such as `https://shop.example/likes`: `Location` and problem
    /// types become absolute. Without it they are paths
    #[arg(long, env = "PUBLIC_URL", value_name = "URL", value_parser = public_url)]
    pub public_url: Option<String>,

    /// true lets shared caches keep anonymous counts for a second; only where each cache in front sees
    /// the header that tells callers apart
    #[arg(long, env = "PUBLIC_CACHING", value_name = "BOOL", default_value = "false")]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub public_caching: bool,

    /// false turns off /docs and /openapi.json
    #[arg(long, env = "DOCS", value_name = "BOOL", default_value = "true")]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub docs: bool,

    /// true serves the demo page at /, which likes as users that it makes up; only with
    /// AUTH_MODE=trusted-header
    #[arg(long, env = "DEMO", value_name = "BOOL", default_value = "false")]
    #[arg(action = ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub demo: bool,

    /// the admin port of like-aggregator, such as `http://127.0.0.1:8082`, whose numbers the demo page shows
    #[arg(long, env = "DEMO_AGGREGATOR_URL", value_name = "URL", value_parser = aggregator_url)]
    pub demo_aggregator_url: Option<Url>,
}

impl SiteSettings {
    /// Returns what precedes a path in answers: the public URL, or nothing.
    pub fn base(&self) -> &str {
        self.public_url.as_deref().unwrap_or_default()
    }

    /// The error says in one line why the demo is refused.
    pub fn check_demo(&self, auth_mode: AuthMode) -> Result<(), String> {
        if self.demo && auth_mode != AuthMode::TrustedHeader {
            return Err(
                "DEMO=true is refused with AUTH_MODE=jwt: the demo page makes up its users, which a token can't name; \
                        unset DEMO, or set AUTH_MODE=trusted-header on a machine for trying it"
                    .to_owned(),
            );
        }
        if self.demo_aggregator_url.is_some() && !self.demo {
            return Err(
                "DEMO_AGGREGATOR_URL is set, but only the demo page uses it: unset it, or set DEMO=true".to_owned()
            );
        }
        Ok(())
    }
}

/// Returns the URL of the aggregator's metrics.
fn aggregator_url(text: &str) -> Result<Url, String> {
    const EXPECTED: &str = "expected the URL of an admin port such as http://127.0.0.1:8082, without a path";
    let url = Url::parse(text).map_err(|error| format!("{EXPECTED} ({error})"))?;
    let plain = url.scheme() == "http" && url.path() == "/" && url.query().is_none() && url.username().is_empty();
    if plain { url.join("metrics").map_err(|error| error.to_string()) } else { Err(EXPECTED.to_owned()) }
}

/// Returns the URL without a slash at its end.
fn public_url(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected a URL such as https://shop.example/likes, without query or user";
    let url = Url::parse(text).map_err(|error| format!("{EXPECTED} ({error})"))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    let web = matches!(url.scheme(), "http" | "https") && url.password().is_none();
    let base = url.as_str().trim_end_matches('/').to_owned();
    if plain && web && HeaderValue::from_str(&base).is_ok() { Ok(base) } else { Err(EXPECTED.to_owned()) }
}
