//! Takes likes over HTTP and publishes each as an event; answers counts and receipts. Kafka is
//! needed to take a like, PostgreSQL to answer a read and, once after the start, to learn the
//! topic's layout. Counting is like-aggregator's.

pub mod auth;
pub mod browser;
mod caller;
mod conditional;
pub mod config;
pub mod counts;
pub mod describe;
pub mod error;
mod extract;
pub mod gate;
pub mod limits;
pub mod loader;
pub mod metrics;
mod prefer;
pub mod problem;
mod public;
pub mod publisher;
pub mod reads;
pub mod receipts;
pub mod request;
pub mod routes;
pub mod stream;
pub mod traces;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use like_service::admin;
use like_service::health::Health;
use like_service::traces::Traces;
use prometheus::Registry;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::Auth;
use crate::browser::Browser;
use crate::config::Config;
use crate::counts::Counts;
use crate::gate::{Gate, LAYOUT_READ, TOPIC_CHECKED, Watch};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::public::StallLimit;
use crate::publisher::{PRODUCER_WARM, Publisher};
use crate::receipts::Receipts;
use crate::stream::Streams;

/// Requests in progress get this long after a signal: a like is settled in some six seconds.
const FINISH_TIMEOUT: Duration = Duration::from_millis(6_500);
/// And then events whose requests have ended before them: so long, and what requests have left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// And each of what is left to close.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What handlers share.
pub struct AppState {
    /// Who is calling.
    pub auth: Auth,
    /// How much is taken from whom.
    pub limits: Limits,
    /// Which sites' pages may call.
    pub browser: Browser,
    /// Whether likes are taken.
    pub gate: Gate,
    /// Where they go.
    pub publisher: Arc<Publisher>,
    /// Where all is read; SQL is in [`reads`] alone.
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
        let pool = reads::pool(&config.database);
        let auth = Auth::new(config).map_err(|refusal| anyhow!(refusal))?;
        auth.register(registry)?;
        metrics::pool::register(registry, &pool)?;
        Ok(Self {
            auth,
            limits: Limits::new(&config.limits, registry)?,
            browser: Browser::new(&config.browser),
            gate: Gate::closed(),
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

/// The sockets, bound by whoever knows how to say that one can't be.
pub struct Listeners {
    /// For callers.
    pub public: TcpListener,
    /// For probes and metrics.
    pub admin: TcpListener,
}

/// Serves until `shutdown`, then finishes what was begun: within ten seconds in all.
pub async fn serve(config: Config, listeners: Listeners, shutdown: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry)?;
    let health = Health::waiting_for(&[PRODUCER_WARM, LAYOUT_READ, TOPIC_CHECKED]);
    let kafka = config.kafka.client_config("like-api")?;
    let topic = &config.kafka.kafka_topic;
    let publisher = Arc::new(Publisher::new(kafka.clone(), topic, metrics.publishing.clone())?);
    let state = Arc::new(AppState::new(&config, Arc::clone(&publisher), metrics, &registry, &shutdown)?);
    state.auth.log();
    if let Some(condition) = state.auth.condition() {
        health.unmet(condition, "not there yet");
    }
    let traces = state.traces.clone();
    let watch = Watch {
        gate: state.gate.clone(),
        health: health.clone(),
        pool: state.pool.clone(),
        kafka,
        topic: topic.clone(),
        interval: config.topic_check_interval,
    };
    let stall = StallLimit::new(config.stall_limit, &registry)?;
    let (public_addr, admin_addr) = (listeners.public.local_addr()?, listeners.admin.local_addr()?);
    info!(%public_addr, %admin_addr, topic, "like-api listens");

    // The admin port ends last, so that /readyz says why while requests are finished.
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listeners.admin, health.clone(), registry, admin_stop.clone()));
    let ready = health.clone();
    let publishing = Arc::clone(&publisher);
    let producer = tokio::spawn(async move { publishing.keep_running(&ready).await });
    let watch = tokio::spawn(watch.run());
    let (app, knowing) = (Arc::clone(&state), health.clone());
    let auth = tokio::spawn(async move { app.auth.keep_current(&knowing).await });
    let streams = tokio::spawn(state.streams.keep_reading());

    let router = routes::router(Arc::clone(&state));
    let ending = Arc::clone(&state);
    let public = public::serve(listeners.public, state, router, stall, shutdown.clone());
    let signalled = OnceLock::new();
    let overtime = async {
        shutdown.cancelled().await;
        let _ = signalled.set(Instant::now());
        health.unmet("shutdown", "shutting down");
        // They would go on for ever.
        ending.streams.close();
        tokio::time::sleep(FINISH_TIMEOUT).await;
    };
    let tasks = [producer.abort_handle(), watch.abort_handle(), auth.abort_handle(), streams.abort_handle()];
    let served = tokio::select! {
        biased;
        // First, so that it has said "not ready" before anything ends.
        () = overtime => {
            warn!("requests were still in progress; leaving them");
            Ok(())
        }
        () = public => Ok(()),
        // They never end by themselves, and nothing works without them.
        ended = producer => Err(anyhow!("the producer's task ended: {ended:?}")),
        ended = watch => Err(anyhow!("the topic's watch ended: {ended:?}")),
        ended = auth => Err(anyhow!("the task that keeps the issuer's keys ended: {ended:?}")),
        ended = streams => Err(anyhow!("the streams' task ended: {ended:?}")),
    };
    tasks.iter().for_each(|task| task.abort());
    // It holds the publisher, whose last owner waits for its end.
    drop(ending);
    let left = signalled.get().map_or(Duration::ZERO, |at| FINISH_TIMEOUT.saturating_sub(at.elapsed()));
    publisher.flush(FLUSH_TIMEOUT + left).await;
    admin_stop.cancel();
    // Its callers may keep their connections open; and closing a client waits for threads of its
    // own, which may be waiting for a name server. The process needn't.
    let close = async {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, admin).await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, tokio::task::spawn_blocking(move || drop(publisher))).await;
    };
    tokio::join!(close, traces.end());
    info!("like-api ends");
    served
}
