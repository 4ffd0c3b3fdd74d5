//! `run`: waits for what counting needs, then runs the consumer thread and the worker until told
//! to stop or until going on would be wrong.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use like_service::backoff::Backoff;
use like_service::database::SCHEMA;
use like_service::health::Health;
use like_service::layout::{self, Layout};
use like_service::{admin, topic_check};
use prometheus::Registry;
use rdkafka::ClientConfig;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::net::TcpListener;
use tokio::sync::{mpsc as channel, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::RunSettings;
use crate::consumer::{ConsumerThread, GROUP, GroupContext, consumer_config};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::timing::Timing;
use crate::upkeep::Upkeep;
use crate::worker::{DATABASE, HEARTBEAT_LIMIT, Worker};

/// The condition under which `/readyz` reports the topic.
const TOPIC: &str = "topic";

/// What closing the consumer may take once all that counts is done.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// From the signal to the end of the process, at most.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(9);

/// Counts until `shutdown`.
pub async fn run(settings: RunSettings, timing: Timing, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = settings.kafka.client_config("like-aggregator")?;
    let admin_addr = settings.admin.admin_addr;
    let listener =
        TcpListener::bind(admin_addr).await.with_context(|| format!("ADMIN_ADDR={admin_addr} can't be bound"))?;
    let registry = Registry::new();
    let metrics = Metrics::register(&registry)?;
    let health = Health::waiting_for(&[TOPIC, GROUP, DATABASE]);
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listener, health.clone(), registry, admin_stop.clone()));
    info!(%admin_addr, topic = settings.kafka.kafka_topic, group = settings.kafka_group_id, dedup = ?settings.dedup(), "starting");

    let result = tokio::select! {
        ready = wait_for_topic(&settings, &client, &health) => match ready {
            Ok(layout) => count(&settings, &timing, &client, &layout, metrics, &health, &shutdown).await,
            Err(error) => Err(error),
        },
        () = shutdown.cancelled() => Ok(()),
    };
    health.unmet(TOPIC, "shutting down");
    admin_stop.cancel();
    admin.abort();
    result
}

/// Waits until the topic's layout and the topic are there, and agree.
async fn wait_for_topic(settings: &RunSettings, client: &ClientConfig, health: &Health) -> anyhow::Result<Layout> {
    let topic = &settings.kafka.kafka_topic;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match look(settings, client).await {
            Ok((layout, findings)) => {
                findings.warnings.iter().for_each(|warning| warn!("{warning}"));
                if let Some(fatal) = findings.fatal {
                    bail!(fatal);
                }
                health.met(TOPIC);
                return Ok(layout);
            }
            Err(error) => {
                let waiting_for = format!("{error:#}");
                if health.unmet(TOPIC, waiting_for.as_str()) {
                    info!(topic, %waiting_for, "waiting");
                }
            }
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn look(settings: &RunSettings, client: &ClientConfig) -> anyhow::Result<(Layout, topic_check::Findings)> {
    let topic = &settings.kafka.kafka_topic;
    let options = settings.database.database_url.connect_options(SCHEMA, "like-aggregator");
    let mut connection = PgConnection::connect_with(&options).await.context("PostgreSQL")?;
    let layout =
        layout::read(&mut connection, topic).await.context("topic_layout (made by `like-aggregator setup`)")?;
    let layout =
        layout.with_context(|| format!("topic_layout has no {topic}: `like-aggregator setup` has to be run"))?;
    let live = topic_check::describe(client, topic).await.context("Kafka")?;
    let findings = topic_check::compare(live.as_ref(), topic, layout.partitions);
    Ok((layout, findings))
}

async fn count(
    settings: &RunSettings,
    timing: &Timing,
    client: &ClientConfig,
    layout: &Layout,
    metrics: Metrics,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let (orders, worker_orders) = channel::unbounded_channel();
    let (worker_answers, answers) = mpsc::channel();
    let store = Store::new(&settings.database.database_url, SCHEMA, &layout.topic, settings.dedup());
    let worker = Worker::new(store, metrics.clone(), health.clone(), worker_answers);
    tokio::spawn(worker.run(worker_orders));
    let url = &settings.database.database_url;
    let upkeep = Upkeep::new(url, SCHEMA, client.clone(), settings.dedup(), settings.dedup_window);
    // Ends with this function, whichever way that does.
    let mut tasks = JoinSet::new();
    tasks.spawn(upkeep.run(timing.upkeep));

    let thread = ConsumerThread {
        consumer: consumer_config(client.clone(), &settings.kafka_group_id)
            .create_with_context(GroupContext::default())
            .context("Kafka consumer")?,
        topic: layout.topic.clone(),
        limits: settings.limits(),
        timing: *timing,
        orders,
        answers,
        metrics,
        health: health.clone(),
        heartbeat: health.heartbeat("consumer", HEARTBEAT_LIMIT),
    };
    let stop = CancellationToken::new();
    let (ended, mut end) = oneshot::channel();
    let (closed, close) = oneshot::channel::<()>();
    let thread_stop = stop.clone();
    std::thread::Builder::new().name("kafka-consumer".to_owned()).spawn(move || {
        let _ = ended.send(thread.run(&thread_stop));
        // Leaves the group. It can hang, so nobody joins this thread; what it had to say is said.
        drop(thread);
        drop(closed);
    })?;

    let result = tokio::select! {
        result = &mut end => {
            let result = result.unwrap_or_else(|_| Err(anyhow!("the consumer thread has died")));
            health.unmet(TOPIC, "counting has stopped");
            let _ = tokio::time::timeout(CLOSE_WAIT, close).await;
            return result;
        }
        wrong = watch_topic(client, layout, timing.topic_check) => Err(anyhow!(wrong)),
        () = shutdown.cancelled() => Ok(()),
    };
    health.unmet(TOPIC, "shutting down");
    stop.cancel();
    let ending = async {
        let ended = end.await.unwrap_or_else(|_| Err(anyhow!("the consumer thread has died")));
        let _ = tokio::time::timeout(CLOSE_WAIT, close).await;
        ended
    };
    if let Ok(ended) = tokio::time::timeout(SHUTDOWN_WAIT, ending).await {
        return result.and(ended);
    }
    warn!("the consumer could not be closed in time: the group notices by its session timeout");
    result
}

/// Looks every minute whether the topic still is what its layout says; answers when it isn't.
/// A broker that can't be asked says nothing about the topic.
async fn watch_topic(client: &ClientConfig, layout: &Layout, interval: Duration) -> String {
    let mut said = Vec::new();
    loop {
        tokio::time::sleep(interval).await;
        let Ok(live) = topic_check::describe(client, &layout.topic).await else {
            continue;
        };
        let findings = topic_check::compare(live.as_ref(), &layout.topic, layout.partitions);
        if let Some(fatal) = findings.fatal {
            return fatal;
        }
        if findings.warnings != said {
            findings.warnings.iter().for_each(|warning| warn!("{warning}"));
            said = findings.warnings;
        }
    }
}
