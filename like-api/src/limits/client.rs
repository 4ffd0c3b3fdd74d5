//! The client's address: the peer of the connection, or the address that a trusted proxy names.
//!
//! A client can write anything into `X-Forwarded-For`, and each proxy appends the address of its own
//! peer. So the list is read from the right while the writer of an entry is a trusted proxy. The first
//! address that isn't a trusted proxy is the client's; everything left of it may be forged.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::{IpNet, Ipv4Net};

use crate::config::{LimitSettings, ProxyHeader};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ProxyHeader,
}

impl Proxies {
    pub fn new(settings: &LimitSettings) -> Self {
        let trusted = settings.trusted_proxies.iter().map(canonical).collect();
        Self { trusted, header: settings.trusted_proxies_header }
    }

    /// Returns the client's address: the last trustworthy one.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let name = if self.header == ProxyHeader::Forwarded { header::FORWARDED } else { X_FORWARDED_FOR };
        // Several headers of one name are one list.
        for value in headers.get_all(name).iter().rev() {
            let list = String::from_utf8_lossy(value.as_bytes());
            for entry in list.rsplit(',') {
                let named = match self.header {
                    ProxyHeader::XForwardedFor => address(entry.trim()),
                    ProxyHeader::Forwarded => forwarded_for(entry).and_then(address),
                };
                // Not an address: its writer counts as the client.
                let Some(named) = named else { return client };
                client = named;
                if !self.trusts(client) {
                    return client;
                }
            }
        }
        client
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// A network of IPv4-mapped addresses as one of IPv4: addresses are compared in that form.
fn canonical(network: &IpNet) -> IpNet {
    let mapped = match network.addr() {
        IpAddr::V6(v6) if network.prefix_len() >= 96 => v6.to_ipv4_mapped(),
        _ => None,
    };
    let v4 = mapped.and_then(|v4| Ipv4Net::new(v4, network.prefix_len() - 96).ok());
    v4.map_or(*network, IpNet::V4)
}

/// Returns the address that a limit applies to: an IPv4 address, or the /64 of an IPv6 client, which has
/// all 2⁶⁴ addresses of it.
pub fn held_to(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// An address, perhaps with a port, IPv6 perhaps in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()));
    address.map(|address| address.to_canonical())
}

/// The value of `for` in an element of `Forwarded`. One with quoted commas or semicolons is cut in
/// the wrong places, and then it is no address.
fn forwarded_for(element: &str) -> Option<&str> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(header: ProxyHeader, peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8", "::ffff:127.0.0.1/128", "::ffff:172.16.0.0/108"];
        let trusted = trusted.iter().map(|network| canonical(&network.parse().unwrap())).collect();
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        Proxies { trusted, header }.client(peer.parse().unwrap(), &headers.collect()).to_string()
    }

    fn by_xff(peer: &str, lists: &[&str]) -> String {
        let headers: Vec<_> = lists.iter().map(|list| ("x-forwarded-for", *list)).collect();
        client(ProxyHeader::XForwardedFor, peer, &headers)
    }

    #[test]
    fn entries_of_the_client_are_ignored() {
        assert_eq!(by_xff("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(by_xff("10.0.0.1", &["203.0.113.9, 198.51.100.1"]), "198.51.100.1");
        // The client claims to be behind a trusted proxy.
        assert_eq!(by_xff("10.0.0.1", &["203.0.113.9, 10.0.0.7, 198.51.100.1"]), "198.51.100.1");
        // The client's own header, before the proxy's.
        assert_eq!(by_xff("10.0.0.1", &["203.0.113.9", "198.51.100.1"]), "198.51.100.1");
        // The other header, which the proxy passes on.
        let both = [("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(client(ProxyHeader::XForwardedFor, "10.0.0.1", &both), "198.51.100.1");
        assert_eq!(client(ProxyHeader::Forwarded, "10.0.0.1", &both), "203.0.113.9");
    }

    #[test]
    fn chain_of_trusted_proxies_is_followed() {
        assert_eq!(by_xff("10.0.0.1", &["198.51.100.1, fd00::2, 10.9.9.9"]), "198.51.100.1");
        assert_eq!(by_xff("10.0.0.1", &["198.51.100.1", "fd00::2"]), "198.51.100.1");
        assert_eq!(by_xff("::ffff:10.0.0.1", &["::ffff:198.51.100.1"]), "198.51.100.1");
        assert_eq!(by_xff("127.0.0.1", &["198.51.100.1, ::ffff:172.31.0.1"]), "198.51.100.1");
        assert_eq!(by_xff("127.0.0.2", &["198.51.100.1"]), "127.0.0.2");
        // All are trusted: an internal request.
        assert_eq!(by_xff("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(by_xff("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn malformed_entry_ends_the_chain() {
        for (entry, expected) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(by_xff("10.0.0.1", &[entry]), expected);
        }
        for malformed in ["", "unknown", "198.51.100.1 198.51.100.2", "198.51.100.256", "[10.0.0.1", "é", "1"] {
            assert_eq!(by_xff("10.0.0.1", &[malformed]), "10.0.0.1", "{malformed}");
            assert_eq!(by_xff("10.0.0.1", &[&format!("198.51.100.1, {malformed}, 10.0.0.2")]), "10.0.0.2");
        }
    }

    #[test]
    fn forwarded_header_is_parsed() {
        let by = |list: &str| client(ProxyHeader::Forwarded, "10.0.0.1", &[("forwarded", list)]);
        assert_eq!(by("for=203.0.113.9, for=198.51.100.1;proto=https;by=10.0.0.1"), "198.51.100.1");
        assert_eq!(by("by=10.0.0.2; FOR=\"[2001:db8::1]:4711\""), "2001:db8::1");
        assert_eq!(by("for=198.51.100.1, for=fd00::2"), "198.51.100.1");
        for malformed in ["for=unknown", "for=_hidden", "proto=https", "", "for=\"1,2\"", "for"] {
            assert_eq!(by(malformed), "10.0.0.1", "{malformed}");
        }
    }
}
