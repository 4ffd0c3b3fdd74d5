//! Sessions on PostgreSQL that don't depend on the defaults of a role, a database or a pooler: each sets what its safety
//! needs once it is connected, and checks that the server keeps it. Of several hosts, a session is on the one that takes
//! writes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection, Row};
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::database::{DatabaseUrl, Hosts, sqlstate};

/// Begins every transaction that needs no snapshot of its own: a role's default may be another isolation level.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// A session's settings, unless it sets others. Workers queue behind a session that waits for a lock on their tables, and
/// behind an idle transaction.
const SAFE: [(&str, &str); 6] = [
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("statement_timeout", "0"),
    // Since PostgreSQL 17.
    (TRANSACTION_TIMEOUT, "0"),
    // An advisory lock ends with its session.
    ("idle_session_timeout", "0"),
    (DEFAULT_ISOLATION, "read committed"),
];

/// Longest wait for one of several hosts: the next one may answer.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a pool's host is checked, if there are several.
const HOST_CHECK: Duration = Duration::from_secs(1);

const TRANSACTION_TIMEOUT: &str = "transaction_timeout";
const DEFAULT_ISOLATION: &str = "default_transaction_isolation";

/// How to connect, and the settings of each connection.
#[derive(Clone)]
pub struct Session {
    hosts: Hosts,
    names: Vec<&'static str>,
    values: Vec<String>,
}

impl DatabaseUrl {
    /// Returns a session with `schema` as its `search_path`, shown as `application` in `pg_stat_activity`.
    pub fn session(&self, schema: &str, application: &str) -> Session {
        let hosts = self.hosts_for(schema, application);
        let session = Session { hosts, names: Vec::new(), values: Vec::new() };
        session.with(SAFE).with([("search_path", schema)])
    }
}

impl Session {
    /// Sets these for each connection, in place of the safe defaults.
    #[must_use]
    pub fn with<'a>(mut self, settings: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        for (name, value) in settings {
            if let Some(known) = self.names.iter().position(|known| *known == name) {
                value.clone_into(&mut self.values[known]);
            } else {
                self.names.push(name);
                self.values.push(value.to_owned());
            }
        }
        self
    }

    /// Connects to the only host, or to the one of several that takes writes.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        Ok(self.connect_to_any().await?.1)
    }

    /// Connects as [`Session::connect`] does, and refuses a pooler in front that gives a server's connection to several
    /// clients in turn: settings, locks and prepared statements would be those of another client.
    pub async fn connect_unshared(&self) -> sqlx::Result<PgConnection> {
        let (host, mut connection) = self.connect_to_any().await?;
        let before = backend(&mut connection).await?;
        // An idle server connection that was used last is the next one to be given away, and stays with a transaction.
        let mut other = self.connect_once(host).await?;
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        let other = backend(&mut other).await?;
        if other == before || backend(&mut connection).await? != before {
            return Err(shared("two connections are one session"));
        }
        Ok(connection)
    }

    /// Makes a pool of such connections, which connects on demand.
    pub fn pool(self, pool: PgPoolOptions) -> PgPool {
        let session = Arc::new(self);
        let apply = Arc::clone(&session);
        let pool = pool
            .after_connect(move |connection, _| {
                let session = Arc::clone(&apply);
                Box::pin(async move { session.apply(connection).await })
            })
            .connect_lazy_with(session.start_options(session.hosts.last()));
        if session.hosts.options.len() > 1 {
            tokio::spawn(session.follow_primary(pool.clone()));
        }
        pool
    }

    /// Keeps the pool's new connections on the host that takes writes: sqlx's pool knows one host. A connection shows when
    /// to look for another one, since a primary can't become a standby without closing it.
    async fn follow_primary(self: Arc<Self>, pool: PgPool) {
        while !pool.is_closed() {
            if let Ok((host, mut connection)) = self.connect_to_any().await {
                pool.set_connect_options(self.start_options(host));
                while matches!(timeout(HOST_TIMEOUT, connection.ping()).await, Ok(Ok(()))) {
                    sleep(HOST_CHECK).await;
                }
            }
            sleep(HOST_CHECK).await;
        }
    }

    /// Returns a connection and the number of its host.
    async fn connect_to_any(&self) -> sqlx::Result<(usize, PgConnection)> {
        let Self { hosts, .. } = self;
        if hosts.options.len() == 1 {
            return Ok((0, self.connect_to(0).await?));
        }
        let mut refusals = Vec::new();
        for host in hosts.by_likelihood() {
            let attempt = timeout(HOST_TIMEOUT, self.connect_to(host)).await;
            match attempt.unwrap_or_else(|_| Err(io::Error::other("no answer in time").into())) {
                Ok(connection) => {
                    if hosts.connected_to(host) != host {
                        info!(host = hosts.name(host), "PostgreSQL's primary is another host");
                    }
                    return Ok((host, connection));
                }
                Err(error @ sqlx::Error::Configuration(_)) => return Err(error),
                Err(error) => refusals.push(format!("{}: {error}", hosts.name(host))),
            }
        }
        Err(io::Error::other(format!("no host takes writes: {}", refusals.join("; "))).into())
    }

    async fn connect_to(&self, host: usize) -> sqlx::Result<PgConnection> {
        let mut connection = self.connect_once(host).await?;
        self.apply(&mut connection).await?;
        Ok(connection)
    }

    /// Connects without a check of the settings.
    async fn connect_once(&self, host: usize) -> sqlx::Result<PgConnection> {
        let connected = PgConnection::connect_with(&self.start_options(host)).await;
        // Only a pooler refuses one: PostgreSQL knows them all.
        let refused = |error: &sqlx::Error| error.to_string().contains("unsupported startup parameter");
        connected.map_err(|error| if refused(&error) { shared(&error.to_string()) } else { error })
    }

    /// What an older server knows too is in force from the start, so that no default of a role interrupts `apply`.
    fn start_options(&self, host: usize) -> PgConnectOptions {
        let settings = self.names.iter().zip(&self.values);
        self.hosts.options[host]
            .clone()
            .options(settings.filter(|(name, _)| ![TRANSACTION_TIMEOUT, DEFAULT_ISOLATION].contains(name)))
    }

    /// Sets all settings that the server knows, and checks in another statement that they are in force, on the same server
    /// and on one that takes writes, if there is a choice.
    async fn apply(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let set = "SELECT name, set_config(name, value, false), pg_backend_pid()
                   FROM unnest($1::text[], $2::text[]) AS own (name, value)
                   WHERE current_setting(name, true) IS NOT NULL";
        let set = sqlx::query_as(set).bind(&self.names).bind(&self.values).fetch_all(&mut *connection);
        let set: Vec<(String, String, i32)> = set.await.map_err(prepared_by_others)?;
        let backend = set.first().map(|(_, _, backend)| *backend);
        let (names, values): (Vec<_>, Vec<_>) = set.into_iter().map(|(name, value, _)| (name, value)).unzip();
        let check = "SELECT string_agg(name, ', ') FILTER (WHERE current_setting(name, true) IS DISTINCT FROM value),
                            pg_backend_pid(), pg_is_in_recovery()
                     FROM unnest($1::text[], $2::text[]) AS own (name, value)";
        let check = sqlx::query_as(check).bind(names).bind(values).fetch_one(connection);
        let (lost, now, standby): (Option<String>, i32, bool) = check.await.map_err(prepared_by_others)?;
        if lost.is_some() || backend != Some(now) {
            return Err(shared(&lost.unwrap_or_else(|| "each statement has another session".to_owned())));
        }
        if standby && self.hosts.primary_only {
            return Err(io::Error::other("it is a standby").into());
        }
        Ok(())
    }
}

/// The server process behind a connection. By the simple protocol: prepared statements may be those of another client.
async fn backend(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// A new connection has no prepared statement of its own, so one that exists or is gone is another client's.
fn prepared_by_others(error: sqlx::Error) -> sqlx::Error {
    match sqlstate(&error).as_deref() {
        Some("42P05" | "26000") => shared(&error.to_string()),
        _ => error,
    }
}

fn shared(why: &str) -> sqlx::Error {
    sqlx::Error::Configuration(
        format!(
            "the connection does not keep its settings ({why}): a pooler in front must pool sessions, and accept or ignore the \
             start-up parameters options and extra_float_digits"
        )
        .into(),
    )
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn later_setting_replaces_the_safe_one() {
        let url = DatabaseUrl::from_str("postgres://u@localhost:1/d").unwrap();
        let session = url.session("likes", "test").with([("lock_timeout", "2s"), ("jit", "off")]);
        let lock = session.names.iter().position(|name| *name == "lock_timeout").unwrap();
        assert_eq!(session.values[lock], "2s");
        let options = session.start_options(0).get_options().unwrap().to_owned();
        assert!(options.contains("lock_timeout=2s") && options.contains("jit=off"), "{options}");
        assert!(!options.contains(TRANSACTION_TIMEOUT), "an older server refuses it: {options}");
    }
}
