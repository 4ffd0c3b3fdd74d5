//! Settings of rate limits, connections and overload.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use like_common::cli::{duration, duration_between};

/// The limits of requests and connections.
#[derive(Args, Debug, Clone)]
pub struct LimitSettings {
    /// requests per second of one user, fractions allowed; 0: no limit
    #[arg(long, env = "RATE_LIMIT_USER", value_name = "PER_SECOND", default_value = "10", value_parser = rate)]
    pub rate_limit_user: f64,

    /// requests that one user may send at once before the rate applies; from 1
    #[arg(long, env = "RATE_LIMIT_USER_BURST", value_name = "REQUESTS", default_value = "50")]
    pub rate_limit_user_burst: NonZeroU32,

    /// requests per second of one client address (IPv6: one /64), fractions allowed; 0: no limit. Behind
    /// a proxy set TRUSTED_PROXIES first, or all callers share one address
    #[arg(long, env = "RATE_LIMIT_ADDRESS", value_name = "PER_SECOND", default_value = "0", value_parser = rate)]
    pub rate_limit_address: f64,

    /// requests that one address may send at once before the rate applies; from 1
    #[arg(long, env = "RATE_LIMIT_ADDRESS_BURST", value_name = "REQUESTS", default_value = "200")]
    pub rate_limit_address_burst: NonZeroU32,

    /// networks of the proxies in front, such as 10.0.0.0/8,fd00::/8: only their forwarding header is
    /// trusted
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "CIDR,…", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,

    /// the header in which those proxies name the client; the other one is ignored, since they may
    /// pass on a caller's own
    #[arg(long, env = "TRUSTED_PROXIES_HEADER", value_enum, value_name = "NAME", default_value = "x-forwarded-for")]
    pub trusted_proxies_header: ProxyHeader,

    /// open connections, at most the process's limit of open files less 264; at the limit the connection
    /// that has been idle longest is closed, and if none is idle, new ones get 503. By default the most that
    /// is possible, up to 10000
    #[arg(long, env = "MAX_CONNECTIONS", value_name = "CONNECTIONS")]
    pub max_connections: Option<NonZeroUsize>,

    /// percent of all connections, streams, watched products and waiting receipts that one address may
    /// have, 1 to 100; a proxy in TRUSTED_PROXIES may have all connections
    #[arg(long, env = "ADDRESS_SHARE", value_name = "PERCENT", default_value_t = 25)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=100))]
    pub address_share: u8,

    /// how long an idle connection stays open, 1s to 24h; longer than a gateway in front keeps its own
    #[arg(long, env = "IDLE_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = idle_timeout)]
    pub idle_timeout: Duration,

    /// average duration of likes above which further ones are refused with 503, such as 100ms; well
    /// above the brokers' acknowledgement time. 0s never refuses
    #[arg(long, env = "SHED_ABOVE", value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub shed_above: Duration,
}

/// The header in which proxies name the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`
    XForwardedFor,
    /// RFC 7239: `Forwarded: for=client, for=proxy`
    Forwarded,
}

/// Most connections above the limit that are answered at a time; the rest is closed without an answer.
pub const REFUSALS_MAX: usize = 64;
/// Open files reserved for refusals, and for Kafka, PostgreSQL, the admin port and others.
const OTHER_FILES: u64 = REFUSALS_MAX as u64 + 200;
/// The default maximum: each connection needs about 20 KiB, so more should be a decision.
const CONNECTIONS: u64 = 10_000;

impl LimitSettings {
    /// Returns the most connections that may be open, or why the setting is refused.
    pub fn max_connections(&self) -> Result<usize, String> {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let possible = files.saturating_sub(OTHER_FILES.min(files / 2)).max(1);
        match self.max_connections {
            None => Ok(possible.min(CONNECTIONS) as usize),
            Some(set) if set.get() as u64 <= possible => Ok(set.get()),
            Some(set) => Err(format!(
                "MAX_CONNECTIONS={set} is too high: this process may open {files} files (ulimit -n), which suffices for \
                 {possible} connections"
            )),
        }
    }
}

fn idle_timeout(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_secs(1), Duration::from_hours(24))
}

/// One request an hour: a lower rate would ask clients to wait for longer.
const SLOWEST: f64 = 1.0 / 3600.0;
const FASTEST: f64 = 1e6;

fn rate(text: &str) -> Result<f64, String> {
    let refused =
        || "expected requests per second, such as 10 or 0.5: from 0.0003 to 1000000, or 0 for no limit".to_owned();
    let rate: f64 = text.parse().map_err(|_| refused())?;
    let fits = rate == 0.0 || (SLOWEST..=FASTEST).contains(&rate);
    fits.then_some(rate).ok_or_else(refused)
}

/// A network, or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network: Option<IpNet> =
        text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)));
    let network =
        network.ok_or_else(|| format!("'{text}' is not a network: write 10.0.0.0/8, fd00::/8 or 192.0.2.7"))?;
    // 10.1.2.3/8 may mean /32 or /8. A wrong guess may trust too many addresses.
    if network.addr() == network.network() {
        Ok(network)
    } else {
        Err(format!("'{text}' names a host and a network: write {} or {}", network.trunc(), network.addr()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_zero_or_within_bounds() {
        for (text, expected) in [("0", 0.0), ("10", 10.0), ("0.5", 0.5), ("1000000", 1e6), ("0.0003", 0.0003)] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "ten", "NaN", "inf", "1e7", "0.0002", "10/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ambiguous_network_is_refused() {
        for fine in ["10.0.0.0/8", " fd00::/8", "192.0.2.7", "::1", "192.0.2.7/32"] {
            network(fine).unwrap_or_else(|e| panic!("{fine}: {e}"));
        }
        let refused = network("10.1.2.3/8").unwrap_err();
        assert!(refused.contains("10.0.0.0/8") && refused.contains("10.1.2.3"), "{refused}");
        for bad in ["", "gateway", "10.0.0.0/33", "10.0.0"] {
            assert!(network(bad).unwrap_err().contains("192.0.2.7"), "{bad}");
        }
    }
}
