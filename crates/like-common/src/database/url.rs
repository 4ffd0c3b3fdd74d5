//! `DATABASE_URL`, parsed strictly. sqlx ignores what it doesn't know: a mistyped `sslmode` would connect without TLS.

use std::collections::BTreeSet;
use std::env;
use std::str::FromStr;
use std::sync::Once;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tracing::warn;
use url::Url;

use super::hosts::{self, Hosts};
use crate::transport::is_local;

/// The modes that sqlx implements; its `allow` never tries TLS.
const SSL_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// The parameters that sqlx or [`hosts`] applies.
const PARAMETERS: [&str; 14] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "statement-cache-capacity",
    "target_session_attrs",
];

/// Beginnings of libpq's variables about the protection of a connection, and those of them that sqlx reads.
const PROTECTING: [&str; 4] = ["PGSSL", "PGREQUIRE", "PGCHANNELBINDING", "PGGSSENCMODE"];
const READ: [&str; 4] = ["PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"];

/// A valid URL that no log shows.
#[derive(Clone)]
pub struct DatabaseUrl {
    hosts: Hosts,
    /// The mode, if it protects less than `verify-full` on a connection that leaves the machine.
    weak: Option<&'static str>,
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(
            text,
            env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

impl DatabaseUrl {
    /// Returns options for a connection to each host, and warns once per process if it is not protected by verified TLS.
    pub(super) fn hosts(&self) -> &Hosts {
        static WARNED: Once = Once::new();
        if let Some(sslmode) = self.weak {
            WARNED.call_once(|| {
                warn!(
                    sslmode,
                    "PostgreSQL is not verified: its network can read or change what is sent; use sslmode=verify-full"
                );
            });
        }
        &self.hosts
    }

    /// No error quotes the URL, whose parts may be a password.
    fn parse(text: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("it doesn't start with postgres://".to_owned());
        }
        let protection = Protection::of_variables(variables)?;
        let hosts: Vec<_> =
            hosts::split(text)?.iter().map(|url| parse_host(url, &protection)).collect::<Result<_, _>>()?;
        let primary_only = hosts.iter().all(|host| host.primary_only);
        if hosts.len() > 1 && !primary_only {
            return Err("it names several hosts, so it needs the parameter target_session_attrs=read-write".to_owned());
        }
        let weak = hosts.iter().find_map(|host| host.weak);
        let mut names = BTreeSet::new();
        if !hosts.iter().all(|host| names.insert((host.options.get_host(), host.options.get_port()))) {
            return Err("it names a host twice; 'host', 'hostaddr' and 'port' are for one host".to_owned());
        }
        Ok(Self { hosts: Hosts::new(hosts.into_iter().map(|host| host.options).collect(), primary_only), weak })
    }
}

/// What variables say about the protection of a connection.
#[derive(Default)]
struct Protection {
    mode: Option<&'static str>,
    root: bool,
}

impl Protection {
    fn of_variables(variables: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        let mut found = Self::default();
        for (name, value) in variables.filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "PGSSLMODE" => found.mode = Some(ssl_mode("PGSSLMODE", &value)?),
                "PGSSLROOTCERT" => found.root = true,
                "PGPORT" if value.parse::<u16>().is_err() => return Err(format!("PGPORT='{value}' is not a port")),
                name if PROTECTING.iter().any(|start| name.starts_with(start)) && !READ.contains(&name) => {
                    return Err(format!("{name} has no effect here: unset it; of its kind, {} have", READ.join(", ")));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// One host of a URL.
struct Host {
    options: PgConnectOptions,
    primary_only: bool,
    weak: Option<&'static str>,
}

/// Parses a URL with one host.
fn parse_host(text: &str, protection: &Protection) -> Result<Host, String> {
    let unusable = || "it can't be parsed as a URL".to_owned();
    let mut url = Url::parse(text).map_err(|_| unusable())?;
    if url.fragment().is_some() {
        return Err("it has a #, which is written %23 in a password".to_owned());
    }
    let primary_only = hosts::take_target(&mut url)?;
    let Protection { mut mode, mut root } = *protection;
    let mut seen = BTreeSet::new();
    for (name, value) in url.query_pairs() {
        let option = name.starts_with("options[") && name.ends_with(']');
        if !option && !PARAMETERS.contains(&&*name) {
            return Err(format!("'{name}' is none of its parameters, which are {}", PARAMETERS.join(", ")));
        }
        match &*name {
            "sslmode" => mode = Some(ssl_mode("sslmode", &value)?),
            "sslrootcert" => root = true,
            _ => {}
        }
        if !seen.insert(name.clone()) {
            return Err(format!("it has two parameters '{name}'"));
        }
    }

    let mut options = PgConnectOptions::from_url(&url).map_err(|_| unusable())?;
    // sqlx would look up a name with brackets.
    if let Some(address) = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address = address.to_owned();
        options = options.host(&address);
    }
    if options.get_host().contains(',') {
        return Err(
            "several hosts are written before the database: postgres://user@host1:port,host2:port/name".to_owned()
        );
    }
    let socket = options.get_socket().is_some() || options.get_host().starts_with('/');
    let local = socket || is_local(options.get_host());
    let Some(mut mode) = mode else {
        return if local { Ok(Host { options, primary_only, weak: None }) } else { Err(no_choice(options.get_host())) };
    };
    // As libpq does it.
    if mode == "require" && root {
        mode = "verify-ca";
    }
    let options = options.ssl_mode(PgSslMode::from_str(mode).map_err(|_| unusable())?);
    Ok(Host { options, primary_only, weak: (!local && mode != "verify-full").then_some(mode) })
}

fn ssl_mode(setting: &str, value: &str) -> Result<&'static str, String> {
    let known = SSL_MODES.into_iter().find(|mode| *mode == value);
    known.ok_or_else(|| format!("{setting}='{value}' is none of {}", SSL_MODES.join(", ")))
}

fn no_choice(host: &str) -> String {
    format!(
        "the host {host} is not this machine, so it needs a parameter sslmode, for instance sslmode=verify-full; one of {}",
        SSL_MODES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, variables: &[(&str, &str)]) -> Result<DatabaseUrl, String> {
        DatabaseUrl::parse(text, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn unknown_parameter_is_refused() {
        for (url, variables, said) in [
            (
                "postgres://u:secret@db/d?sslmode=verify_full",
                &[][..],
                "sslmode='verify_full' is none of disable, prefer",
            ),
            ("postgres://u:secret@db/d?sslmode=allow", &[], "sslmode='allow' is none of"),
            (
                "postgres://u:secret@db/d?sslmod=verify-full",
                &[],
                "'sslmod' is none of its parameters, which are sslmode, ",
            ),
            ("postgres://u@db/d?pasword=secret&sslmode=disable", &[], "'pasword' is none of"),
            ("postgres://u@db/d?sslmode=verify-full&sslmode=disable", &[], "two parameters 'sslmode'"),
            ("postgres://u:secret@127.0.0.1/d", &[("PGSSLMODE", "requrie")], "PGSSLMODE='requrie' is none of"),
            ("postgres://u:secret@127.0.0.1/d", &[("PGSSLCRL", "/x")], "PGSSLCRL has no effect here"),
            ("postgres://u:secret@127.0.0.1/d", &[("PGCHANNELBINDING", "require")], "PGCHANNELBINDING has no effect"),
            ("postgres://u:secret@127.0.0.1/d", &[("PGPORT", "x")], "PGPORT='x'"),
            ("postgres://u:secret@db/d", &[("PGSSLMODE", "")], "the host db is not this machine"),
            ("postgres://u:secret@[2001:db8::1]/d", &[], "the host 2001:db8::1 is not this machine"),
            ("postgres://u:1#secret@127.0.0.1/d", &[], "it "),
            (
                "postgres://u:secret@[::1],127.0.0.1/d",
                &[],
                "several hosts, so it needs the parameter target_session_attrs",
            ),
            ("postgres://u:secret@[::1],db/d?target_session_attrs=read-write", &[], "the host db is not this machine"),
            ("postgres://u:secret@[::1],db/d?target_session_attrs=any", &[], "'any' is none of read-write, primary"),
            ("postgres://u:secret@[::1],[::1]/d?target_session_attrs=primary", &[], "names a host twice"),
            ("postgres://u:secret@x/d?host=db1,db2", &[], "several hosts are written before the database"),
        ] {
            let refused = parse(url, variables).unwrap_err();
            assert!(refused.contains(said) && !refused.contains("secret"), "{url}: {refused}");
        }
    }

    #[test]
    fn weak_mode_and_host_are_known() {
        for (url, variables, host, weak) in [
            ("postgres://u@localhost/d", &[][..], "localhost", None),
            ("postgres://u@[::1]:5433/d", &[], "::1", None),
            ("postgres://u@127.8.0.1/d?sslmode=disable", &[], "127.8.0.1", None),
            ("postgres://u@x/d?host=/run", &[], "x", None),
            ("postgres://u@db/d?sslmode=verify-full", &[], "db", None),
            ("postgres://u@db/d", &[("PGSSLMODE", "verify-full")], "db", None),
            ("postgres://u@db/d?sslmode=disable", &[("PGSSLMODE", "verify-full")], "db", Some("disable")),
            ("postgres://u@db/d?sslmode=require", &[], "db", Some("require")),
            ("postgres://u@db/d?sslmode=require&sslrootcert=/ca", &[], "db", Some("verify-ca")),
            ("postgres://u@127.0.0.1/d?host=db&sslmode=prefer", &[], "db", Some("prefer")),
        ] {
            let parsed = parse(url, variables).expect(url);
            assert_eq!((parsed.hosts.options[0].get_host(), parsed.weak), (host, weak), "{url}");
        }
        let several = "postgres://u@localhost:1,[::1]:2,db:3/d?sslmode=require&target_session_attrs=read-write";
        let several = parse(several, &[]).unwrap();
        let names: Vec<_> = several.hosts.options.iter().map(|host| (host.get_host(), host.get_port())).collect();
        assert_eq!((&names[..], several.weak), (&[("localhost", 1), ("::1", 2), ("db", 3)][..], Some("require")));
        assert!(!format!("{:?}", parse("postgres://u:secret@[::1]/d", &[]).unwrap()).contains("secret"));
    }
}
