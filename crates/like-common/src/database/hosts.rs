//! The hosts of a `DATABASE_URL`, of which one takes writes: a primary and its standbys, as libpq writes them. sqlx knows one
//! host per URL and ignores `target_session_attrs`, so this splits the list into a URL for each host. (tokio-postgres knows
//! several, and would be a second client.)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::postgres::PgConnectOptions;
use url::Url;

const TARGET: &str = "target_session_attrs";

/// Values of [`TARGET`] that mean the primary.
const PRIMARY: [&str; 2] = ["read-write", "primary"];

/// One host or more, in the URL's order.
#[derive(Clone)]
pub struct Hosts {
    pub options: Vec<PgConnectOptions>,
    /// Whether a standby is refused.
    pub primary_only: bool,
    /// The host that was connected to last. All sessions of a process share it: one finds the new primary for all.
    last: Arc<AtomicUsize>,
}

impl Hosts {
    pub fn new(options: Vec<PgConnectOptions>, primary_only: bool) -> Self {
        Self { options, primary_only, last: Arc::default() }
    }

    /// Returns the same hosts with changed options.
    pub fn map(&self, change: impl FnMut(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self { options: self.options.iter().cloned().map(change).collect(), ..self.clone() }
    }

    pub fn last(&self) -> usize {
        self.last.load(Ordering::Relaxed)
    }

    /// Sets [`Hosts::last`] and returns the one before.
    pub fn connected_to(&self, host: usize) -> usize {
        self.last.swap(host, Ordering::Relaxed)
    }

    /// host:port, for people.
    pub fn name(&self, host: usize) -> String {
        let options = &self.options[host];
        format!("{}:{}", options.get_host(), options.get_port())
    }

    /// Returns the hosts' numbers, beginning with the one that was connected to last.
    pub fn by_likelihood(&self) -> impl Iterator<Item = usize> + use<> {
        let (last, count) = (self.last(), self.options.len());
        (0..count).map(move |n| (last + n) % count)
    }
}

/// Splits a URL into one for each host. No error quotes the URL, whose parts may be a password.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let hosts: Vec<_> = hosts.split(',').collect();
    if hosts.len() > 1 && hosts.iter().any(|host| host.is_empty() || host.starts_with(':')) {
        return Err("one of its hosts has no name".to_owned());
    }
    Ok(hosts.iter().map(|host| format!("{scheme}://{user}{host}{path}")).collect())
}

/// Takes [`TARGET`] out of the URL's parameters, and returns whether it asks for the primary.
pub(super) fn take_target(url: &mut Url) -> Result<bool, String> {
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let (target, others): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| name == TARGET);
    match &target[..] {
        [] => return Ok(false),
        [(_, value)] if PRIMARY.contains(&value.as_str()) => {}
        [(_, value)] => {
            return Err(format!("{TARGET}='{value}' is none of {}: likes are written", PRIMARY.join(", ")));
        }
        _ => return Err(format!("it has two parameters '{TARGET}'")),
    }
    url.set_query(None);
    if !others.is_empty() {
        url.query_pairs_mut().extend_pairs(others);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_gets_a_url() {
        for (text, urls) in [
            ("postgres://u:p%40@db:1/d?x=a,b", &["postgres://u:p%40@db:1/d?x=a,b"][..]),
            ("postgres://u:a,b@db1,db2:2/d", &["postgres://u:a,b@db1/d", "postgres://u:a,b@db2:2/d"]),
            ("postgres://[::1]:1,db?x=/,", &["postgres://[::1]:1?x=/,", "postgres://db?x=/,"]),
            ("postgres:///d", &["postgres:///d"]),
        ] {
            assert_eq!(split(text).unwrap(), urls, "{text}");
        }
        assert!(split("postgres://u@db1,/d").is_err() && split("postgres://u@db1,:5/d").is_err());
    }

    #[test]
    fn last_host_comes_first() {
        let hosts = Hosts::new(vec![PgConnectOptions::new(); 3], true);
        hosts.clone().connected_to(2);
        assert_eq!(hosts.by_likelihood().collect::<Vec<_>>(), [2, 0, 1]);
    }
}
