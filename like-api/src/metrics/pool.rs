//! The pool of connections to PostgreSQL, read when somebody asks.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use sqlx::PgPool;

struct PoolUse {
    pool: PgPool,
    count: IntGaugeVec,
    idle: IntGauge,
    used: IntGauge,
    max: IntGauge,
}

/// Makes its use known to `registry`.
pub fn register(registry: &Registry, pool: &PgPool) -> prometheus::Result<()> {
    let of_pool = |name: &str, help: &str| {
        // By OpenTelemetry's conventions each has the pool's name.
        Opts::new(name, help).const_label("db_client_connection_pool_name", "likes")
    };
    let count = of_pool("db_client_connection_count", "connections to PostgreSQL, by state: idle or used");
    let count = IntGaugeVec::new(count, &["db_client_connection_state"])?;
    let max = IntGauge::with_opts(of_pool("db_client_connection_max", "connections that there may be at most"))?;
    max.set(i64::from(pool.options().get_max_connections()));
    let (idle, used) = (count.with_label_values(&["idle"]), count.with_label_values(&["used"]));
    registry.register(Box::new(PoolUse { pool: pool.clone(), count, idle, used, max }))
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
