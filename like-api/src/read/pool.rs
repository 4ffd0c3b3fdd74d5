//! The pool of connections to PostgreSQL and its metrics. SQL is in `queries`.

use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;
use std::time::Duration;

use like_common::database::{DatabaseUrl, SCHEMA, STALE_PLAN, sqlstate};
use like_common::metrics::add;
use like_common::session::Session;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool, Postgres};

use crate::metrics::Counted;

/// Enough to keep several cores of PostgreSQL busy with look-ups by primary key.
const CONNECTIONS: u32 = 8;
/// Longest wait for a connection, a new one included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an answer, the connection included.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that was idle for longer is pinged before a request relies on it.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

// sqlx doesn't expose its waiters, so the callers of `acquire` count here, for all pools of the process.
static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    let opts = pool_opts("db_client_connection_pending_requests", "queries that wait for a connection");
    IntGauge::with_opts(opts).expect("a valid name")
});
static TIMEOUTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let opts = pool_opts("db_client_connection_timeouts_total", "queries that got no connection in time");
    IntCounter::with_opts(opts).expect("a valid name")
});

/// OpenTelemetry's conventions require the pool's name.
fn pool_opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).const_label("db_client_connection_pool_name", "likes")
}

/// Returns the session of the pool's connections.
pub fn session(url: &DatabaseUrl) -> Session {
    // The server's timeout matches ours, or an abandoned query would keep its connection busy.
    let limit = READ_TIMEOUT.as_millis().to_string();
    let limits = ["statement_timeout", "lock_timeout"].map(|name| (name, limit.as_str()));
    url.session(SCHEMA, "like-api").with(limits)
}

/// Creates the pool. It connects on demand: PostgreSQL needn't be reachable yet.
pub fn open(url: &DatabaseUrl) -> PgPool {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        });
    session(url).pool(pool)
}

/// Registers the metrics of the pools, one per database, as those of one.
pub fn register(registry: &Registry, pools: Vec<PgPool>) {
    let count = pool_opts("db_client_connection_count", "connections to PostgreSQL, by state: idle or used");
    let count = IntGaugeVec::new(count, &["db_client_connection_state"]).expect("a valid name");
    let max = pool_opts("db_client_connection_max", "most connections at the same time");
    let max = IntGauge::with_opts(max).expect("a valid name");
    max.set(pools.iter().map(|pool| i64::from(pool.options().get_max_connections())).sum());
    add(registry, Ok(WAITING.clone()));
    add(registry, Ok(TIMEOUTS.clone()));
    add(registry, Ok(PoolMetrics { pools, count, max }));
}

/// Takes a connection from the pool, waiting for one if needed.
pub async fn acquire(pool: &PgPool) -> sqlx::Result<PooledConnection> {
    let _waiting = Counted::by(&WAITING);
    let connection = pool.acquire().await.inspect_err(|error| {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            TIMEOUTS.inc();
        }
    })?;
    Ok(PooledConnection(Some(connection)))
}

/// A connection that is closed when dropped, unless it was released. sqlx's own would return to the
/// pool by waiting for the outstanding answer, and hold its place meanwhile: without end if the
/// server has vanished.
pub struct PooledConnection(Option<PoolConnection<Postgres>>);

impl PooledConnection {
    /// Forgets the prepared statements if `result` says that the plan of one no longer fits its table (0A000), which
    /// otherwise lasts as long as the connection. Returns whether the statement may be tried once more.
    pub async fn recovers<T>(&mut self, result: &sqlx::Result<T>) -> bool {
        let stale = result.as_ref().is_err_and(|error| sqlstate(error).as_deref() == Some(STALE_PLAN));
        stale && self.clear_cached_statements().await.is_ok()
    }

    /// Returns the connection to the pool. No answer may be outstanding.
    pub fn release(mut self) {
        self.0 = None;
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("until it is released")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("until it is released")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Reads the pools when metrics are collected.
#[derive(Clone)]
struct PoolMetrics {
    pools: Vec<PgPool>,
    count: IntGaugeVec,
    max: IntGauge,
}

impl Collector for PoolMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.count.desc(), self.max.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Idle first: a connection taken in between counts as used, and none counts twice.
        let idle: i64 = self.pools.iter().map(|pool| pool.num_idle() as i64).sum();
        let all: i64 = self.pools.iter().map(|pool| i64::from(pool.size())).sum();
        self.count.with_label_values(&["idle"]).set(idle);
        self.count.with_label_values(&["used"]).set((all - idle).max(0));
        [self.count.collect(), self.max.collect()].concat()
    }
}
