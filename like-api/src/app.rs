//! The state that all handlers share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use like_common::traces::Traces;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::config::{Config, SiteSettings};
use crate::cors::Cors;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::publish::producer::Publisher;
use crate::publish::write_gate::WriteGate;
use crate::read::counts::Counts;
use crate::read::databases::Databases;
use crate::read::history::Histories;
use crate::read::live::Streams;
use crate::read::receipts::{Receipts, WAITERS_MAX};
use crate::read::top::Top;
use crate::read::user_likes::UserLikes;

pub struct AppState {
    pub auth: Auth,
    pub limits: Limits,
    pub cors: Cors,
    pub site: SiteSettings,
    /// Where examples of the description lead.
    pub example_url: String,
    pub gate: WriteGate,
    pub publisher: Arc<Publisher>,
    /// All SQL is in [`crate::read::queries`].
    pub databases: Databases,
    pub counts: Counts,
    pub top: Top,
    pub histories: Histories,
    pub receipts: Receipts,
    pub user_likes: UserLikes,
    pub streams: Streams,
    pub metrics: Metrics,
    pub traces: Traces,
    /// After a signal: answers close their connections.
    pub draining: AtomicBool,
    /// After a signal and `SHUTDOWN_DELAY`: nothing new begins, and waits end.
    pub stop: CancellationToken,
}

impl AppState {
    /// Registers the metrics of all parts with `registry`. No like is accepted until the write gate is
    /// opened.
    pub fn new(
        config: &Config,
        publisher: Arc<Publisher>,
        metrics: Metrics,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let databases = Databases::open(config);
        let auth = Auth::new(config).map_err(|refusal| anyhow!(refusal))?;
        auth.register(registry);
        let limits = Limits::new(&config.limits, registry).map_err(|refusal| anyhow!(refusal))?;
        let streams = Streams::new(&config.streams, &limits, databases.clone(), registry);
        crate::read::pool::register(registry, databases.all().iter().map(|database| database.pool.clone()).collect());
        Ok(Self {
            auth,
            cors: Cors::new(&config.browser),
            site: config.site.clone(),
            example_url: config.example_url(),
            gate: WriteGate::closed(),
            publisher,
            counts: Counts::new(&databases, registry),
            top: Top::new(&databases, registry),
            histories: Histories::new(&databases, registry),
            receipts: Receipts::new(&databases, registry, limits.share("receipts", WAITERS_MAX), stop.clone()),
            user_likes: UserLikes::new(databases.clone()),
            streams: streams.map_err(|refusal| anyhow!(refusal))?,
            limits,
            databases,
            metrics,
            draining: AtomicBool::new(false),
            stop: stop.clone(),
            traces: Traces::start("like-api", env!("CARGO_PKG_VERSION"), registry)?,
        })
    }
}
