//! Which servers are on this machine. Every other one is reached through a network, so whether TLS protects it has to be
//! chosen: `sslmode` for PostgreSQL, `security.protocol` for Kafka.

use std::net::IpAddr;

/// Whether a host, without port and brackets, is a loopback address.
pub fn is_local(host: &str) -> bool {
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical().is_loopback());
    address.unwrap_or_else(|_| host.eq_ignore_ascii_case("localhost"))
}
