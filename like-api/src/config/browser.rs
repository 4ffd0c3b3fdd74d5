//! Settings of CORS: which sites' pages may use the API.

use axum::http::HeaderValue;
use clap::Args;

#[derive(Args, Debug, Clone)]
pub struct BrowserSettings {
    /// origins whose pages may call, such as `https://shop.example,http://localhost:3000`; * lets the
    /// pages of all others read what is anonymous. Without it no page of another site may
    #[arg(long, env = "CORS_ALLOWED_ORIGINS", value_name = "ORIGIN,…", value_delimiter = ',', value_parser = origin)]
    pub cors_allowed_origins: Vec<AllowedOrigin>,
}

/// An entry of the list of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// All origins may read anonymously.
    Any,
    /// This origin, as browsers send it in `Origin`, may do all that its user may do.
    Exact(HeaderValue),
}

/// Origins are compared byte by byte, so a spelling that no browser sends is an error.
fn origin(text: &str) -> Result<AllowedOrigin, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(AllowedOrigin::Any);
    }
    let refused = |why: &str| format!("'{text}' {why}");
    if text == "null" {
        return Err(refused("is what sandboxed pages and local files of anybody send: leave it out"));
    }
    let example = "is no origin: write scheme and host as in https://shop.example";
    let (scheme, rest) = text.split_once("://").ok_or_else(|| refused(example))?;
    if rest.contains('*') {
        return Err(refused("has a wildcard: write out each origin"));
    }
    let host_and_port = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host_and_port.contains('@') || host_and_port.is_empty() || !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        return Err(refused(example));
    }
    if !text.is_ascii() {
        return Err(refused("isn't ASCII: write the host as browsers send it (xn--…)"));
    }
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let shown = host_and_port.strip_suffix(default_port).unwrap_or(host_and_port);
    let spelled = format!("{scheme}://{shown}").to_ascii_lowercase();
    if spelled != text {
        return Err(refused(&format!("is not how browsers spell it: write {spelled}")));
    }
    let (host, port) = match shown.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (shown, None),
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match v6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    let scheme_fits = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
    if !(host_fits && scheme_fits && port_fits) {
        return Err(refused(example));
    }
    HeaderValue::try_from(spelled).map(AllowedOrigin::Exact).map_err(|_| refused(example))
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
            ("https://shop.example:0443", "write scheme and host"),
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
