//! Runs the service: its listeners and tasks, and the shutdown in order.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use like_common::admin;
use like_common::health::{Health, SHUTDOWN};
use like_common::metrics::add;
use prometheus::{PullingGauge, Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::AppState;
use crate::config::Config;
use crate::http::listener::{ListenerTimeouts, WriteTimeout};
use crate::metrics::Metrics;
use crate::publish::producer::{PRODUCER_WARM, Publisher};
use crate::publish::write_gate::{LAYOUT_READ, TOPIC_CHECKED, TopicMonitor};

/// The time for requests in progress after the delay that follows a signal: a like is settled within about six seconds.
const FINISH_TIMEOUT: Duration = Duration::from_millis(6_500);
/// The time for events whose requests have ended, in addition to what [`FINISH_TIMEOUT`] left over.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The time to close the admin port and the producer, each.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The sockets, bound by the caller, which reports errors by the setting's name.
pub struct Listeners {
    pub public: TcpListener,
    pub admin: TcpListener,
}

/// Serves until `shutdown` and for `SHUTDOWN_DELAY` after it, then finishes the requests in progress, within
/// ten seconds in all.
pub async fn serve(config: Config, listeners: Listeners, shutdown: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let health = Health::waiting_once_for(&[PRODUCER_WARM, LAYOUT_READ, TOPIC_CHECKED]);
    register_writes_possible(&registry, &health);
    let kafka = config.kafka.client_config("like-api")?;
    let topic = &config.kafka.kafka_topic;
    let publisher = Arc::new(Publisher::new(kafka.clone(), topic, metrics.publishing.clone())?);
    let state = Arc::new(AppState::new(&config, Arc::clone(&publisher), metrics, &registry)?);
    state.auth.log();
    if let Some(condition) = state.auth.condition() {
        health.unmet(condition, "not there yet");
    }
    let traces = state.traces.clone();
    let watch = TopicMonitor {
        gate: state.gate.clone(),
        health: health.clone(),
        databases: state.databases.clone(),
        kafka,
        publisher: Arc::clone(&publisher),
        topic: topic.clone(),
        interval: config.topic_check_interval,
    };
    let timeouts = ListenerTimeouts {
        idle: config.limits.idle_timeout,
        write: WriteTimeout::new(config.write_timeout, &registry),
    };
    let (public_addr, admin_addr) = (listeners.public.local_addr()?, listeners.admin.local_addr()?);
    info!(%public_addr, %admin_addr, topic, "listening");

    // The admin port closes last, so that /readyz states the reason during the shutdown.
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listeners.admin, health.clone(), registry, admin_stop.clone()));
    let ready = health.clone();
    let publishing = Arc::clone(&publisher);
    let producer = tokio::spawn(async move { publishing.keep_running(&ready).await });
    let watch = tokio::spawn(watch.run());
    let (app, knowing) = (Arc::clone(&state), health.clone());
    let auth = tokio::spawn(async move { app.auth.keep_current(&knowing).await });
    let streams = tokio::spawn(state.streams.keep_reading());

    let router = crate::http::router::router(Arc::clone(&state));
    let ending = Arc::clone(&state);
    let public = crate::http::listener::serve(listeners.public, state, router, timeouts);
    let stopped = OnceLock::new();
    let overtime = async {
        shutdown.cancelled().await;
        ending.draining.store(true, Ordering::Relaxed);
        health.unmet(SHUTDOWN, "shutting down");
        tokio::time::sleep(config.shutdown_delay).await;
        let _ = stopped.set(Instant::now());
        ending.stop.cancel();
        // Streams don't end by themselves.
        ending.streams.close();
        tokio::time::sleep(FINISH_TIMEOUT).await;
    };
    let tasks = [producer.abort_handle(), watch.abort_handle(), auth.abort_handle(), streams.abort_handle()];
    let served = tokio::select! {
        biased;
        // First, so that readiness is off before anything stops.
        () = overtime => {
            warn!("requests were still in progress; leaving them");
            Ok(())
        }
        () = public => Ok(()),
        // These tasks never end by themselves, and the service doesn't work without them.
        ended = producer => Err(anyhow!("the producer task ended: {ended:?}")),
        ended = watch => Err(anyhow!("the topic check ended: {ended:?}")),
        ended = auth => Err(anyhow!("the key refresh task ended: {ended:?}")),
        ended = streams => Err(anyhow!("the stream task ended: {ended:?}")),
    };
    tasks.iter().for_each(|task| task.abort());
    // The state holds the publisher, whose last owner waits until it is closed.
    drop(ending);
    let left = stopped.get().map_or(Duration::ZERO, |at| FINISH_TIMEOUT.saturating_sub(at.elapsed()));
    publisher.flush(FLUSH_TIMEOUT + left).await;
    admin_stop.cancel();
    // Bounded: probes may keep their connections open, and closing the producer waits for its threads,
    // which may be waiting for a name server.
    let close = async {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, admin).await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, tokio::task::spawn_blocking(move || drop(publisher))).await;
    };
    tokio::join!(close, traces.end());
    info!("shut down");
    served
}

fn register_writes_possible(registry: &Registry, health: &Health) {
    let health = health.clone();
    let possible = move || f64::from(u8::from(health.unwritable().is_empty()));
    let help = "1 while likes can be accepted; else 0, and /readyz?writes has the reason";
    add(registry, PullingGauge::new("likes_writes_possible", help, Box::new(possible)));
}
