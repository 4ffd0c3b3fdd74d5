//! Sessions on PostgreSQL that don't depend on the defaults of a role, a database or a pooler: each sets what its safety
//! needs once it is connected, and checks that the server keeps it.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};

use crate::database::DatabaseUrl;

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

const TRANSACTION_TIMEOUT: &str = "transaction_timeout";
const DEFAULT_ISOLATION: &str = "default_transaction_isolation";

/// How to connect, and the settings of each connection.
#[derive(Debug, Clone)]
pub struct Session {
    options: PgConnectOptions,
    names: Vec<&'static str>,
    values: Vec<String>,
}

impl DatabaseUrl {
    /// Returns a session with `schema` as its `search_path`, shown as `application` in `pg_stat_activity`.
    pub fn session(&self, schema: &str, application: &str) -> Session {
        let options = self.connect_options(schema, application);
        let session = Session { options, names: Vec::new(), values: Vec::new() };
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

    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        let mut connection = PgConnection::connect_with(&self.start_options()).await?;
        self.apply(&mut connection).await?;
        Ok(connection)
    }

    /// Makes a pool of such connections, which connects on demand.
    pub fn pool(self, pool: PgPoolOptions) -> PgPool {
        let options = self.start_options();
        let session = Arc::new(self);
        pool.after_connect(move |connection, _| {
            let session = Arc::clone(&session);
            Box::pin(async move { session.apply(connection).await })
        })
        .connect_lazy_with(options)
    }

    /// What an older server knows too is in force from the start, so that no default of a role interrupts `apply`.
    fn start_options(&self) -> PgConnectOptions {
        let settings = self.names.iter().zip(&self.values);
        self.options
            .clone()
            .options(settings.filter(|(name, _)| ![TRANSACTION_TIMEOUT, DEFAULT_ISOLATION].contains(name)))
    }

    /// Sets all settings that the server knows, and checks in another statement that they are in force.
    async fn apply(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let set = "SELECT name, set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS own (name, value)
                   WHERE current_setting(name, true) IS NOT NULL";
        let set: Vec<(String, String)> =
            sqlx::query_as(set).bind(&self.names).bind(&self.values).fetch_all(&mut *connection).await?;
        let (names, values): (Vec<_>, Vec<_>) = set.into_iter().unzip();
        let lost = "SELECT string_agg(name, ', ') FROM unnest($1::text[], $2::text[]) AS own (name, value)
                    WHERE current_setting(name, true) IS DISTINCT FROM value";
        let lost: Option<String> = sqlx::query_scalar(lost).bind(names).bind(values).fetch_one(connection).await?;
        match lost {
            None => Ok(()),
            Some(names) => Err(sqlx::Error::Configuration(
                format!("the connection does not keep its settings ({names}): a pooler in front must pool sessions")
                    .into(),
            )),
        }
    }
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
        let options = session.start_options().get_options().unwrap().to_owned();
        assert!(options.contains("lock_timeout=2s") && options.contains("jit=off"), "{options}");
        assert!(!options.contains(TRANSACTION_TIMEOUT), "an older server refuses it: {options}");
    }
}
