//! Folds the log once more, from wherever a schema stands up to given offsets, by the same worker
//! as `run`: what `audit --log` and `rebuild` are made of. Topics one after the other, in the order
//! of `topic_layout`; of each all partitions, one batch in flight while the next is collected.

mod progress;
mod reader;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use like_common::database::{DatabaseSettings, DatabaseUrl};
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
use crate::cli::FoldSettings;
use crate::consume::consumer_config;
use crate::fold::Dedup;
use crate::metrics::Metrics;
use crate::schema::maintenance::Upkeep;
use crate::topic::log_ends;

/// How often old windows of `event_handled` are looked for.
const UPKEEP: Duration = Duration::from_secs(60);

/// Per topic, in the order of folding, the offset of each partition up to which it is folded.
pub type Ends = Vec<(String, Vec<i64>)>;

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
    /// Into `schema`, from the log that `client` reads; `what` is how its progress is called.
    pub fn new(
        client: ClientConfig,
        database: &DatabaseSettings,
        fold: &FoldSettings,
        schema: &'static str,
        what: &'static str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client,
            // Nothing is committed to it and nobody joins it; but a client without one can't be
            // given partitions.
            group: format!("{}-replay", fold.kafka_group_id),
            database: database.database_url.clone(),
            schema,
            dedup: fold.dedup(),
            dedup_window: fold.dedup_window,
            max_events: fold.batch_max_events as usize,
            // Nobody asks for them: a replay ends by itself.
            metrics: Metrics::new(&Registry::new()),
            // Nor does anybody ask whether it is alive: it shows how far it is.
            health: Health::default(),
            progress: Arc::new(Progress::new(what)),
        })
    }

    /// Refuses a log whose start is gone: what was folded from it can't be folded again.
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
                        "partition {partition} of {topic} starts at {start}, no longer at 0: what is gone from the log \
                         can't be folded again; the way is a restored backup, which goes on by itself"
                    );
                }
                if log_end < *end {
                    bail!(
                        "partition {partition} of {topic} is folded up to {end} and its log ends at {log_end}: the \
                         topic was cut or made anew, or KAFKA_BOOTSTRAP_SERVERS is another cluster"
                    );
                }
            }
        }
        Ok(())
    }

    /// Folds each topic up to its ends and no further. When it answers, all is committed and no
    /// batch is in flight. Dropped on the way, it stops after the batch in flight.
    pub async fn fold(&self, ends: &Ends) -> anyhow::Result<()> {
        self.progress.total(ends.iter().flat_map(|(_, ends)| ends).sum());
        // A long replay drops the windows that it has left behind, as `run` does.
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
        end.unwrap_or_else(|_| Err(anyhow!("the reading thread has died")))
    }

    /// How many records were folded so far.
    pub fn folded(&self) -> u64 {
        self.progress.folded()
    }
}
