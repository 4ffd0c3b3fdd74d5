//! Settings of what answers tell about the service itself: its address, its pages, who may cache.

use axum::http::HeaderValue;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use reqwest::Url;

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
}

impl SiteSettings {
    /// Returns what precedes a path in answers: the public URL, or nothing.
    pub fn base(&self) -> &str {
        self.public_url.as_deref().unwrap_or_default()
    }
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
