//! Folds the log again into a schema, from the schema's offsets up to given ones, with the same worker as `run`: for
//! `audit --log` and `rebuild`. Topics are folded in the order of `topic_layout`, each with all its partitions at once;
//! one batch is in flight while the next is filled.

mod reader;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use like_common::database::DatabaseUrl;
use like_common::health::Health;
use like_common::layout::Layout;
use like_common::topic_check;
use prometheus::Registry;
use rdkafka::ClientConfig;
use tokio::sync::{mpsc as channel, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::reader::Reader;
use crate::apply::transaction::Store;
use crate::apply::worker::Worker;
use crate::cli::FoldSettings;
use crate::consume::consumer_config;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::schema::fold_rules::FoldRules;
use crate::schema::maintenance::Upkeep;
use crate::schema::shadow::Ends;
use crate::topic::log_ends;

/// How often old windows of `event_handled` are dropped.
const UPKEEP: Duration = Duration::from_secs(60);

pub struct Replay {
    client: ClientConfig,
    database: DatabaseUrl,
    schema: &'static str,
    fold: FoldSettings,
    /// Those of the live tables.
    rules: FoldRules,
    metrics: Metrics,
    health: Health,
    folded: Arc<AtomicU64>,
}

impl Replay {
    /// Folds the log that `client` reads into `schema`.
    pub fn new(
        client: ClientConfig,
        database: &DatabaseUrl,
        fold: FoldSettings,
        rules: FoldRules,
        schema: &'static str,
    ) -> Self {
        // Neither metrics nor health are read: a replay ends by itself and shows its progress.
        let (metrics, health) = (Metrics::new(&Registry::new()), Health::default());
        Self { client, database: database.clone(), schema, fold, rules, metrics, health, folded: Arc::default() }
    }

    /// Refuses a log of whose held partitions the start is lost.
    pub async fn check_log(&self, ends: &Ends, layouts: &[Layout]) -> anyhow::Result<()> {
        for (topic, ends) in ends {
            let live = topic_check::describe(&self.client, topic).await.context("Kafka")?;
            if let Some(fatal) = topic_check::compare(live.as_ref(), topic, ends.len() as i32).fatal {
                bail!(fatal);
            }
            let log = log_ends::of(&self.client, topic, ends.len() as i32).await.context("Kafka")?;
            let layout = layouts.iter().find(|layout| layout.topic == *topic);
            for (partition, ((start, log_end), end)) in (0..).zip(log.into_iter().zip(ends)) {
                if start > 0 && layout.is_none_or(|layout| layout.holds(partition)) {
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

    /// Folds each topic up to its ends and no further. When it returns, everything is committed and no batch is in flight.
    /// If it is dropped before, it stops after the batch in flight.
    pub async fn fold(&self, ends: &Ends) -> anyhow::Result<()> {
        let total: i64 = ends.iter().flat_map(|(_, ends)| ends).sum();
        let progress = Arc::new(Progress::new("events folded", Some(total.cast_unsigned())));
        // A long replay drops windows that are too old to matter, as `run` does.
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        let FoldRules { window, .. } = self.rules;
        let upkeep = Upkeep::new(&self.database, self.schema, client, self.rules.dedup(), window, metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run(UPKEEP).await;
        });
        for (topic, ends) in ends {
            let folded = self.fold_topic(topic, ends, &progress).await;
            folded.with_context(|| format!("folding {topic} into {}", self.schema))?;
        }
        Ok(())
    }

    async fn fold_topic(&self, topic: &str, ends: &[i64], progress: &Arc<Progress>) -> anyhow::Result<()> {
        let (commands, worker_commands) = channel::unbounded_channel();
        let (worker_events, events) = mpsc::channel();
        let store = Store::new(&self.database, self.schema, topic, self.rules.dedup());
        let max_events = self.fold.batch_max_events as usize;
        let worker = Worker::new(0, max_events, store, self.metrics.clone(), &self.health, worker_events);
        tokio::spawn(worker.run(worker_commands));
        let stop = CancellationToken::new();
        let _stopped_when_dropped = stop.clone().drop_guard();
        let reader = Reader {
            // No offset is committed to this group and no member joins it, but librdkafka assigns partitions only to a
            // client that has a group.
            config: consumer_config(self.client.clone(), &format!("{}-replay", self.fold.kafka_group_id)),
            topic: topic.to_owned(),
            ends: ends.to_vec(),
            max_events,
            commands,
            events,
            progress: Arc::clone(progress),
            folded: Arc::clone(&self.folded),
            stop,
        };
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name("replay".to_owned()).spawn(move || ended.send(reader.run()))?;
        end.await.unwrap_or_else(|_| Err(anyhow!("the reading thread has panicked")))
    }

    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }
}
