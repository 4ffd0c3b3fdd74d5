//! Folds the log again into a schema, from the schema's offsets up to given ones, with the same worker
//! as `run`: for `audit --log` and `rebuild`. Topics follow one another in the order of
//! `topic_layout`; of each, all partitions are read, with one batch in flight while the next is filled.

mod progress;
mod reader;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use like_common::database::DatabaseUrl;
use like_common::health::Health;
use like_common::topic_check;
use prometheus::Registry;
use rdkafka::ClientConfig;
use tokio::sync::{mpsc as channel, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::progress::Progress;
use self::reader::Reader;
use crate::apply::transaction::Store;
use crate::apply::worker::Worker;
use crate::consume::consumer_config;
use crate::fold::Dedup;
use crate::metrics::Metrics;
use crate::schema::maintenance::Upkeep;
use crate::schema::shadow::Ends;
use crate::topic::log_ends;

/// How often old windows of `event_handled` are dropped.
const UPKEEP: Duration = Duration::from_secs(60);

/// How a replay folds: as the aggregators do that fold the live tables.
pub struct ReplayOptions {
    /// The consumer group of the aggregators.
    pub group: String,
    pub dedup: Dedup,
    /// How long windows of `event_handled` are kept.
    pub dedup_window: Duration,
    /// Records per batch at most.
    pub max_events: usize,
}

/// Folding into one schema.
pub struct Replay {
    client: ClientConfig,
    group: String,
    database: DatabaseUrl,
    schema: &'static str,
    dedup: Dedup,
    dedup_window: Duration,
    max_events: usize,
    metrics: Metrics,
    health: Health,
    progress: Arc<Progress>,
}

impl Replay {
    /// Folds the log that `client` reads into `schema`; `what` names it in its progress.
    pub fn new(
        client: ClientConfig,
        database: &DatabaseUrl,
        options: &ReplayOptions,
        schema: &'static str,
        what: &'static str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client,
            // No offset is committed to it and no member joins it, but librdkafka assigns partitions
            // only to a client that has a group.
            group: format!("{}-replay", options.group),
            database: database.clone(),
            schema,
            dedup: options.dedup,
            dedup_window: options.dedup_window,
            max_events: options.max_events,
            // Neither metrics nor health are read: a replay ends by itself and shows its progress.
            metrics: Metrics::new(&Registry::new()),
            health: Health::default(),
            progress: Arc::new(Progress::new(what)),
        })
    }

    /// Refuses a log whose start is lost: what was folded from it can't be folded again.
    pub async fn check_log(&self, ends: &Ends) -> anyhow::Result<()> {
        for (topic, ends) in ends {
            let live = topic_check::describe(&self.client, topic).await.context("Kafka")?;
            if let Some(fatal) = topic_check::compare(live.as_ref(), topic, ends.len() as i32).fatal {
                bail!(fatal);
            }
            let log = log_ends::of(&self.client, topic, ends.len() as i32).await.context("Kafka")?;
            for (partition, ((start, log_end), end)) in log.into_iter().zip(ends).enumerate() {
                if start > 0 {
                    bail!(
                        "partition {partition} of {topic} starts at {start}, no longer at 0: records that the log has \
                         lost can't be folded again; restore a backup instead, and `run` continues from it"
                    );
                }
                if log_end < *end {
                    bail!(
                        "partition {partition} of {topic} is folded up to {end} and its log ends at {log_end}: the \
                         topic was cut or re-created, or KAFKA_BOOTSTRAP_SERVERS is another cluster"
                    );
                }
            }
        }
        Ok(())
    }

    /// Folds each topic up to its ends and no further. When it returns, everything is committed and no
    /// batch is in flight. Dropped before, it stops after the batch in flight.
    pub async fn fold(&self, ends: &Ends) -> anyhow::Result<()> {
        self.progress.total(ends.iter().flat_map(|(_, ends)| ends).sum());
        // A long replay drops windows that are too old to matter, as `run` does.
        let upkeep = Upkeep::new(&self.database, self.schema, self.client.clone(), self.dedup, self.dedup_window);
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run(UPKEEP).await;
        });
        for (topic, ends) in ends {
            self.fold_topic(topic, ends).await.with_context(|| format!("folding {topic} into {}", self.schema))?;
        }
        Ok(())
    }

    async fn fold_topic(&self, topic: &str, ends: &[i64]) -> anyhow::Result<()> {
        let (orders, worker_orders) = channel::unbounded_channel();
        let (worker_answers, answers) = mpsc::channel();
        let store = Store::new(&self.database, self.schema, topic, self.dedup);
        let worker = Worker::new(store, self.metrics.clone(), self.health.clone(), worker_answers);
        tokio::spawn(worker.run(worker_orders));
        let stop = CancellationToken::new();
        let _stopped_when_dropped = stop.clone().drop_guard();
        let reader = Reader {
            config: consumer_config(self.client.clone(), &self.group),
            topic: topic.to_owned(),
            ends: ends.to_vec(),
            max_events: self.max_events,
            orders,
            answers,
            progress: Arc::clone(&self.progress),
            stop,
        };
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("replay".to_owned()).spawn(move || ended.send(reader.run()))?;
        let end = self.progress.show_until(end).await;
        end.unwrap_or_else(|_| Err(anyhow!("the reading thread has panicked")))
    }

    /// Returns how many records were folded so far.
    pub fn folded(&self) -> u64 {
        self.progress.folded()
    }
}
