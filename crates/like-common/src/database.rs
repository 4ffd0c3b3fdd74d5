//! Connections to PostgreSQL, the schema of the tables, and the meaning of errors.

mod hosts;
mod url;

use std::str::FromStr;

use clap::Args;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

pub(crate) use self::hosts::Hosts;
pub use self::url::DatabaseUrl;

/// The schema that holds all tables.
pub const SCHEMA: &str = "likes";

/// The SQLSTATE of "cached plan must not change result type", after a change of a column's type.
pub const STALE_PLAN: &str = "0A000";

#[derive(Args, Debug, Clone)]
pub struct DatabaseSettings {
    /// the database's URL, postgres://user:password@host:port[,host:port…]/name?sslmode=verify-full
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = DatabaseUrl::from_str)]
    pub database_url: DatabaseUrl,
}

impl DatabaseUrl {
    /// Returns options for a connection to the first host with `schema` as its `search_path`, shown as `application` in
    /// `pg_stat_activity`.
    pub fn connect_options(&self, schema: &str, application: &str) -> PgConnectOptions {
        self.hosts_for(schema, application).options.swap_remove(0)
    }

    /// Returns the same for each host.
    pub(crate) fn hosts_for(&self, schema: &str, application: &str) -> Hosts {
        self.hosts().map(|options| {
            // One line per statement would hide the line per batch, and costs time.
            let options = options.disable_statement_logging();
            options.application_name(application).options([("search_path", schema)])
        })
    }
}

/// Returns the SQLSTATE of an error that PostgreSQL reported; None for errors of the client and the network.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// Whether the same statement may succeed later on a new connection: after errors of the network, a restart, a
/// failover, a full disk or a deadlock. Every other error needs a change of the program or by an operator.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(_) => sqlstate(error).is_some_and(|code| {
            ["08", "53", "57"].iter().any(|class| code.starts_with(class))
                || ["25P03", "25P04", "25006", "40001", "40P01", "55P03"].contains(&code.as_str())
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}
