//! The pool of connections to PostgreSQL, read when somebody asks; and who waits for one of them.

use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

/// Of the process, which has one pool: sqlx doesn't tell, so all who read count here.
static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    let opts = of_pool("db_client_connection_pending_requests", "queries that wait for a connection");
    IntGauge::with_opts(opts).expect("a valid name")
});
static TIMEOUTS: LazyLock<IntCounter> = LazyLock::new(|| {
    let opts = of_pool("db_client_connection_timeouts_total", "queries that waited in vain for a connection");
    IntCounter::with_opts(opts).expect("a valid name")
});

fn of_pool(name: &str, help: &str) -> Opts {
    // By OpenTelemetry's conventions each has the pool's name.
    Opts::new(name, help).const_label("db_client_connection_pool_name", "likes")
}

struct PoolUse {
    pool: PgPool,
    count: IntGaugeVec,
    idle: IntGauge,
    used: IntGauge,
    max: IntGauge,
}

/// Makes its use known to `registry`.
pub fn register(registry: &Registry, pool: &PgPool) -> prometheus::Result<()> {
    let count = of_pool("db_client_connection_count", "connections to PostgreSQL, by state: idle or used");
    let count = IntGaugeVec::new(count, &["db_client_connection_state"])?;
    let max = IntGauge::with_opts(of_pool("db_client_connection_max", "connections that there may be at most"))?;
    max.set(i64::from(pool.options().get_max_connections()));
    let (idle, used) = (count.with_label_values(&["idle"]), count.with_label_values(&["used"]));
    registry.register(Box::new(WAITING.clone()))?;
    registry.register(Box::new(TIMEOUTS.clone()))?;
    registry.register(Box::new(PoolUse { pool: pool.clone(), count, idle, used, max }))
}

/// A connection, for a query that may have to wait for it.
pub async fn acquire(pool: &PgPool) -> sqlx::Result<Lent> {
    let _waiting = Waiting::begin();
    let connection = pool.acquire().await.inspect_err(|error| {
        if matches!(error, sqlx::Error::PoolTimedOut) {
            TIMEOUTS.inc();
        }
    })?;
    Ok(Lent(Some(connection)))
}

/// A connection that is closed when it is dropped, unless it was given back. The pool would wait
/// for the answer that is still to come, and keep its place meanwhile: without end where the server
/// has gone without a word.
pub struct Lent(Option<PoolConnection<Postgres>>);

impl Lent {
    /// To the pool: nothing is outstanding.
    pub fn give_back(mut self) {
        self.0 = None;
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("until it is given back")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("until it is given back")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Ends with the value: whoever waits may be dropped meanwhile.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        WAITING.inc();
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.dec();
    }
}

impl Collector for PoolUse {
    fn desc(&self) -> Vec<&Desc> {
        [self.count.desc(), self.max.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Idle first: one that is taken in between is counted as used, and none twice.
        let idle = self.pool.num_idle() as i64;
        self.idle.set(idle);
        self.used.set((i64::from(self.pool.size()) - idle).max(0));
        [self.count.collect(), self.max.collect()].concat()
    }
}
