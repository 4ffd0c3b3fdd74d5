//! Settings of CORS: which sites' pages may use the API.

use axum::http::{HeaderName, HeaderValue};
use clap::Args;
use reqwest::Url;

#[derive(Args, Debug, Clone)]
pub struct BrowserSettings {
    /// origins whose pages may call, such as `https://shop.example,http://localhost:3000`; * lets the
    /// pages of all other origins read anonymously. Without it no page of another site may call
    #[arg(long, env = "CORS_ALLOWED_ORIGINS", value_name = "ORIGIN,…", value_delimiter = ',', value_parser = origin)]
    pub cors_allowed_origins: Vec<AllowedOrigin>,

    /// header names that those pages may send beside the usual ones, such as x-datadog-trace-id
    #[arg(long, env = "CORS_ALLOWED_HEADERS", value_name = "NAME,…", value_delimiter = ',', value_parser = name)]
    pub cors_allowed_headers: Vec<HeaderName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// All origins may read anonymously.
    Any,
    /// This origin, as browsers send it in `Origin`, may do all that its user may do.
    Exact(HeaderValue),
}

fn name(text: &str) -> Result<HeaderName, String> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a header name"))
}

/// Origins are compared byte by byte, so a spelling that no browser sends is an error.
fn origin(text: &str) -> Result<AllowedOrigin, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(AllowedOrigin::Any);
    }
    let refused = |why: &str| format!("'{text}' {why}");
    if text == "null" {
        return Err(refused("is the origin of every sandboxed page and local file: leave it out"));
    }
    let example = "is not an origin: write scheme and host as in https://shop.example";
    if text.contains('*') {
        return Err(refused("has a wildcard: write out each origin"));
    }
    let url = Url::parse(text).map_err(|_| refused(example))?;
    let host = url.host_str().filter(|host| !host.is_empty() && host.bytes().all(is_in_host));
    let host = host.filter(|_| url.username().is_empty()).ok_or_else(|| refused(example))?;
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let spelled = format!("{}://{host}{port}", url.scheme()).to_ascii_lowercase();
    if spelled != text {
        return Err(refused(&format!("is not how browsers spell it: write {spelled}")));
    }
    HeaderValue::try_from(spelled).map(AllowedOrigin::Exact).map_err(|_| refused(example))
}

/// Whether a host name or a bracketed IPv6 address may contain this byte.
fn is_in_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_origin_is_refused_with_a_fix() {
        assert_eq!(origin("*"), Ok(AllowedOrigin::Any));
        for fine in [
            "https://shop.example",
            "http://localhost:3000",
            "https://xn--bcher-kva.example",
            "http://127.0.0.1",
            "http://[::1]:8080",
            "https://[2001:db8::1]",
            "capacitor://localhost",
            "https://shop.example:8443",
        ] {
            assert_eq!(origin(fine), Ok(AllowedOrigin::Exact(HeaderValue::from_str(fine).unwrap())), "{fine}");
        }
        for (mistake, fix) in [
            ("https://shop.example/", "write https://shop.example"),
            ("https://shop.example/path", "write https://shop.example"),
            ("https://Shop.Example", "write https://shop.example"),
            ("HTTPS://shop.example", "write https://shop.example"),
            ("https://shop.example:443", "write https://shop.example"),
            ("http://shop.example:80", "write http://shop.example"),
            ("shop.example", "write scheme and host"),
            ("https://", "write scheme and host"),
            ("://shop.example", "write scheme and host"),
            ("https://user@shop.example", "write scheme and host"),
            ("https://shop.example:port", "write scheme and host"),
            ("https://shop.example:0443", "write https://shop.example"),
            ("https://[::1", "write scheme and host"),
            ("https://shop example", "write scheme and host"),
            ("https://*.shop.example", "write out each origin"),
            ("https://bücher.example", "xn--"),
            ("null", "leave it out"),
            ("", "write scheme and host"),
        ] {
            let refused = origin(mistake).unwrap_err();
            assert!(refused.contains(fix), "{mistake}: {refused}");
        }
    }
}
