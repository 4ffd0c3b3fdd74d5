//! `run`: waits for the topic and its layout, then runs the consumer thread and the worker until a signal or an error that
//! no retry can solve. Once a topic is closed and folded, its thread and worker end, and the next topic gets new ones.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use like_common::backoff::Backoff;
use like_common::database::SCHEMA;
use like_common::health::Health;
use like_common::layout::{self, Layout, partitions_text};
use like_common::session::Session;
use like_common::traces::Traces;
use like_common::{admin, topic_check};
use prometheus::Registry;
use rdkafka::ClientConfig;
use tokio::sync::{mpsc as channel, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::apply::error::ApplyError;
use crate::apply::transaction::Store;
use crate::apply::worker::{DATABASE, HEARTBEAT_LIMIT, Worker};
use crate::cli::RunSettings;
use crate::consume::{BatchLimits, ConsumerThread, GROUP, GroupContext, NotAMember, consumer_config};
use crate::metrics::Metrics;
use crate::schema::fold_rules::{self, FoldRules};
use crate::schema::maintenance::Upkeep;
use crate::timing::Timing;
use crate::topic::{active, past_end};
use crate::traces::BatchTraces;

/// The condition under which `/readyz` reports the topic.
const TOPIC: &str = "topic";

/// How often to check that the topic is still the active one. The next topic's likes wait for that.
const ACTIVE_CHECK: Duration = Duration::from_secs(2);

/// How long closing the consumer may take, once the batch in flight is done.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// The longest time from the signal to the end of the process.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(8);

/// How long reading the active topic may take at start.
const LAYOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the topics that are folded one after the other share.
struct Service {
    settings: RunSettings,
    timing: Timing,
    client: ClientConfig,
    metrics: Metrics,
    traces: Traces,
    health: Health,
    shutdown: CancellationToken,
}

pub async fn run(settings: RunSettings, timing: Timing, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = settings.servers.kafka.client_config("like-aggregator")?;
    let admin_addr = settings.admin.admin_addr;
    let listener = admin::bind("ADMIN_ADDR", admin_addr).await?;
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let traces = Traces::start("like-aggregator", env!("CARGO_PKG_VERSION"), &registry)?;
    let health = Health::waiting_for(&[TOPIC, GROUP, DATABASE]);
    let admin_stop = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(listener, health.clone(), registry, admin_stop.clone()));
    info!(%admin_addr, topic = settings.servers.kafka.kafka_topic, group = settings.fold.kafka_group_id, "starting");

    let service = Arc::new(Service { settings, timing, client, metrics, traces, health, shutdown });
    let ends_watch = tokio::spawn(Arc::clone(&service).watch_ends());
    let result = service.fold_topics().await;
    ends_watch.abort();
    service.health.unmet(TOPIC, "shutting down");
    service.traces.end().await;
    admin_stop.cancel();
    admin.abort();
    result
}

impl Service {
    async fn fold_topics(&self) -> anyhow::Result<()> {
        loop {
            let (layout, rules) = tokio::select! {
                ready = self.wait_for_topic() => ready?,
                () = self.shutdown.cancelled() => return Ok(()),
            };
            match self.fold_topic(&layout, rules).await {
                Ok(()) if !self.shutdown.is_cancelled() => {
                    info!(topic = layout.topic, "the topic is folded to its end");
                }
                Err(error) if ApplyError::ends_topic(&error) => info!(topic = layout.topic, "the topic was closed"),
                Err(error) if error.is::<NotAMember>() => {
                    warn!("{error}: the consumer is closed and made anew");
                    self.health.unmet(GROUP, error.to_string());
                    continue;
                }
                ended => return ended,
            }
            self.health.unmet(GROUP, "waiting for the next topic");
        }
    }

    /// Waits until there is an active topic that the broker has and that agrees with its layout.
    async fn wait_for_topic(&self) -> anyhow::Result<(Layout, FoldRules)> {
        let topic = &self.settings.servers.kafka.kafka_topic;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.find_topic().await {
                Ok((layout, recorded, findings)) => {
                    findings.warnings.iter().for_each(|warning| warn!("{warning}"));
                    if let Some(fatal) = findings.fatal {
                        bail!(fatal);
                    }
                    let rules = self.settings.fold.dedup.check(recorded)?;
                    info!(topic = layout.topic, partitions = layout.held_text(), %rules, "topic and fold settings read");
                    self.health.met(TOPIC);
                    return Ok((layout, rules));
                }
                // A pooler that keeps no settings won't keep them next time.
                Err(error) if matches!(error.downcast_ref(), Some(sqlx::Error::Configuration(_))) => return Err(error),
                Err(error) => {
                    let waiting_for = format!("{error:#}");
                    if self.health.unmet(TOPIC, waiting_for.as_str()) {
                        info!(topic, %waiting_for, "waiting");
                    }
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    async fn find_topic(&self) -> anyhow::Result<(Layout, FoldRules, topic_check::Findings)> {
        let layout = tokio::time::timeout(LAYOUT_TIMEOUT, self.read_active()).await;
        let (layout, rules) = layout.context("PostgreSQL: no answer")??;
        let live = topic_check::describe(&self.client, &layout.topic).await.context("Kafka")?;
        let findings = topic_check::compare(live.as_ref(), &layout.topic, layout.partitions);
        Ok((layout, rules, findings))
    }

    async fn read_active(&self) -> anyhow::Result<(Layout, FoldRules)> {
        let topic = &self.settings.servers.kafka.kafka_topic;
        let mut connection = self.session().connect_unshared().await.context("PostgreSQL")?;
        let own =
            layout::read(&mut connection, topic).await.context("topic_layout (made by `like-aggregator setup`)")?;
        if own.is_none() {
            bail!("topic_layout has no {topic}: `like-aggregator setup` has to be run");
        }
        // The configured topic is one of several, which are folded in their order.
        let layout = active::current(&mut connection).await.context("topic_layout")?;
        let layout = layout.context("every topic is closed: `like-aggregator setup --after` adds the next one")?;
        let rules =
            fold_rules::read(&mut connection, SCHEMA).await.context("fold (recorded by `like-aggregator setup`)")?;
        Ok((layout, rules.context("the fold settings are not recorded: `like-aggregator setup` has to be run")?))
    }

    fn session(&self) -> Session {
        self.settings.servers.database.database_url.session(SCHEMA, "like-aggregator")
    }

    /// Folds a topic until shutdown, or until another topic is the active one.
    async fn fold_topic(&self, layout: &Layout, rules: FoldRules) -> anyhow::Result<()> {
        let Self { settings, timing, client, metrics, traces, health, .. } = self;
        let (url, fold) = (&settings.servers.database.database_url, &settings.fold);
        let (held, group) = (layout.held(), group(&fold.kafka_group_id, layout));
        metrics.held(layout);
        metrics.dedup_window.set(rules.window.as_secs().cast_signed());
        let (worker_events, events) = mpsc::channel();
        let max_events = fold.batch_max_events as usize;
        // A lane without a partition would be of no use.
        let count = usize::from(settings.apply_lanes).min(held.len());
        health.forget_parts(count);
        let mut lanes = Vec::new();
        for lane in 0..count {
            let (commands, worker_commands) = channel::unbounded_channel();
            let store = Store::new(url, SCHEMA, &layout.topic, rules.dedup());
            let mut worker = Worker::new(lane, max_events, store, metrics.clone(), health, worker_events.clone());
            let (topic, group) = (layout.topic.clone(), group.clone());
            worker.traces = BatchTraces { traces: traces.clone(), topic, group };
            worker.partitions = Some(layout.partitions);
            tokio::spawn(worker.run(worker_commands));
            lanes.push(commands);
        }
        drop(worker_events);
        let upkeep = Upkeep::new(url, SCHEMA, client.clone(), rules.dedup(), rules.window, metrics.clone());
        // Aborted when this function returns.
        let mut tasks = JoinSet::new();
        tasks.spawn(upkeep.run(timing.upkeep));

        let thread = ConsumerThread {
            consumer: consumer_config(client.clone(), &group)
                .create_with_context(GroupContext::default())
                .context("Kafka consumer")?,
            topic: layout.topic.clone(),
            held,
            ends: layout.end_offsets.clone(),
            limits: BatchLimits { max_events, max_wait: settings.batch_max_wait },
            timing: *timing,
            lanes,
            events,
            traces: traces.clone(),
            metrics: metrics.clone(),
            health: health.clone(),
            heartbeat: health.heartbeat("consumer", HEARTBEAT_LIMIT),
        };
        let stop = CancellationToken::new();
        let (ended, mut end) = oneshot::channel();
        let (closed, close) = oneshot::channel::<()>();
        let thread_stop = stop.clone();
        std::thread::Builder::new().name("kafka-consumer".to_owned()).spawn(move || {
            let _ = ended.send(thread.run(&thread_stop));
            // Leaves the group. It can hang, so this thread isn't joined; its result is sent before, and the loop has ended.
            let ConsumerThread { consumer, heartbeat, lanes, .. } = thread;
            drop((heartbeat, lanes));
            drop(consumer);
            drop(closed);
        })?;

        let died = |_| Err(anyhow!("the consumer thread has died"));
        let result = tokio::select! {
            result = &mut end => {
                health.unmet(TOPIC, "counting has stopped");
                closed_in_time(tokio::time::timeout(CLOSE_WAIT, close).await.is_ok());
                return result.unwrap_or_else(died);
            }
            wrong = self.watch_topic(layout) => Err(anyhow!(wrong)),
            () = self.watch_active(layout) => Ok(()),
            () = self.shutdown.cancelled() => Ok(()),
        };
        health.unmet(TOPIC, "counting has stopped");
        stop.cancel();
        let ending = async {
            let ended = end.await.unwrap_or_else(died);
            (ended, tokio::time::timeout(CLOSE_WAIT, close).await.is_ok())
        };
        let (ended, closed) = tokio::time::timeout(SHUTDOWN_WAIT, ending).await.unwrap_or((Ok(()), false));
        closed_in_time(closed);
        result.and(ended)
    }

    /// Compares the topic with its layout every minute, and returns a difference that must stop the service. An
    /// unreachable broker is no difference.
    async fn watch_topic(&self, layout: &Layout) -> String {
        let mut logged = Vec::new();
        loop {
            tokio::time::sleep(self.timing.topic_check).await;
            let Ok(live) = topic_check::describe(&self.client, &layout.topic).await else {
                continue;
            };
            let findings = topic_check::compare(live.as_ref(), &layout.topic, layout.partitions);
            if let Some(fatal) = findings.fatal {
                return fatal;
            }
            if findings.warnings != logged {
                findings.warnings.iter().for_each(|warning| warn!("{warning}"));
                logged = findings.warnings;
            }
        }
    }

    /// Returns once the topic is no longer the active one. While the database is unreachable, it counts as active.
    async fn watch_active(&self, layout: &Layout) {
        let session = self.session();
        let mut connection = None;
        loop {
            tokio::time::sleep(ACTIVE_CHECK).await;
            let read = async {
                let mut connected = match connection.take() {
                    Some(connected) => connected,
                    None => session.connect().await?,
                };
                let current = active::current(&mut connected).await?;
                Ok::<_, sqlx::Error>((current, connected))
            };
            if let Ok(Ok((current, connected))) = tokio::time::timeout(HEARTBEAT_LIMIT, read).await {
                // The form of event ids makes no difference here.
                let time_ordered_ids_from = layout.time_ordered_ids_from;
                if current.map(|current| Layout { time_ordered_ids_from, ..current }).as_ref() != Some(layout) {
                    return;
                }
                connection = Some(connected);
            }
        }
    }

    /// Reports, every minute, records past the ends of closed topics: a producer still writes there, and its likes are not
    /// counted.
    async fn watch_ends(self: Arc<Self>) {
        let mut logged = Vec::new();
        loop {
            let find = async {
                let mut connection = self.session().connect().await?;
                past_end::find(&self.client, &layout::read_all(&mut connection).await?).await
            };
            if let Ok(Ok(found)) = tokio::time::timeout(HEARTBEAT_LIMIT, find).await {
                self.metrics.behind_end.set(found.iter().map(past_end::PastEnd::records).sum());
                if found != logged {
                    for past in &found {
                        error!(
                            topic = past.topic,
                            partition = past.partition,
                            end = past.end_offset,
                            first = past.first_offset,
                            "records past the end of a closed topic are not counted: a producer still writes there"
                        );
                    }
                    logged = found;
                }
            }
            tokio::time::sleep(self.timing.topic_check).await;
        }
    }
}

/// The group of the aggregators of one database. Another database's would be assigned partitions that it doesn't read.
fn group(name: &str, layout: &Layout) -> String {
    match &layout.held {
        None => name.to_owned(),
        Some(held) => format!("{name}-{}", partitions_text(held)),
    }
}

fn closed_in_time(closed: bool) {
    if !closed {
        warn!("the consumer could not be closed in time: the group notices by its session timeout");
    }
}
