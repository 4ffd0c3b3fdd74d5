//! The state that all handlers share.

use std::sync::Arc;

use anyhow::anyhow;
use like_common::traces::Traces;
use prometheus::Registry;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::config::Config;
use crate::http::middleware::cors::Browser;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::publish::producer::Publisher;
use crate::publish::write_gate::WriteGate;
use crate::read::counts::Counts;
use crate::read::live::Streams;
use crate::read::receipts::Receipts;

/// What handlers share.
pub struct AppState {
    /// Who is calling.
    pub auth: Auth,
    /// How much is taken from whom.
    pub limits: Limits,
    /// Which sites' pages may call.
    pub browser: Browser,
    /// Whether likes are taken.
    pub gate: WriteGate,
    /// Where they go.
    pub publisher: Arc<Publisher>,
    /// Where all is read; SQL is in [`crate::read::queries`] alone.
    pub pool: PgPool,
    /// How many like what.
    pub counts: Counts,
    /// What became of likes.
    pub receipts: Receipts,
    /// Live counts.
    pub streams: Streams,
    /// What is counted.
    pub metrics: Metrics,
    /// Where spans are made.
    pub traces: Traces,
}

impl AppState {
    /// By settings; what its parts count is made known to `registry`. Takes no like until its gate
    /// is opened. With `shutdown` those who only wait are answered.
    pub fn new(
        config: &Config,
        publisher: Arc<Publisher>,
        metrics: Metrics,
        registry: &Registry,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let pool = crate::read::pool::open(&config.database);
        let auth = Auth::new(config).map_err(|refusal| anyhow!(refusal))?;
        auth.register(registry)?;
        crate::read::pool::register(registry, &pool)?;
        Ok(Self {
            auth,
            limits: Limits::new(&config.limits, registry)?,
            browser: Browser::new(&config.browser),
            gate: WriteGate::closed(),
            publisher,
            counts: Counts::new(pool.clone(), registry)?,
            receipts: Receipts::new(pool.clone(), registry, shutdown.clone())?,
            streams: Streams::new(&config.streams, pool.clone(), registry)?,
            pool,
            metrics,
            traces: Traces::start("like-api", env!("CARGO_PKG_VERSION"), registry)?,
        })
    }
}
