//! The write gate: whether likes may be published, under which topic sequence and with which event ids. It opens once
//! the topic's layout was read from PostgreSQL and the topic matches it. A layout stays in force when PostgreSQL fails
//! later, so that likes are still accepted.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use like_common::backoff::Backoff;
use like_common::database::sqlstate;
use like_common::health::Health;
use like_common::layout::{self, Layout};
use like_common::topic_check::{self, Findings};
use like_events::topic::{FENCE_BYTES, MAX_MESSAGE_BYTES};
use rdkafka::ClientConfig;
use sqlx::Connection;
use tracing::{error, info, warn};

use super::producer::Publisher;
use crate::read::databases::{Database, Databases};
use crate::read::pool::acquire;

/// Readiness condition: `topic_layout` was read and permits writes to this topic.
pub const LAYOUT_READ: &str = "topic_layout";
/// Readiness condition: the topic matches its layout.
pub const TOPIC_CHECKED: &str = "topic";

/// Longest wait for the layout: a lost answer must not stop the monitor.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

const NO_LAYOUT: &str = "the topic's layout has not been read yet";

/// What an event needs to know of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenGate {
    /// The topic's place in `topic_layout`.
    pub sequence: i32,
    /// See [`like_events::EventId::from_idempotency_key`].
    pub time_ordered_ids_from: Option<DateTime<Utc>>,
}

impl From<&Layout> for OpenGate {
    fn from(layout: &Layout) -> Self {
        Self { sequence: layout.sequence, time_ordered_ids_from: layout.time_ordered_ids_from }
    }
}

/// Open, or closed with a reason. Every write checks it.
#[derive(Clone)]
pub struct WriteGate(Arc<RwLock<Result<OpenGate, String>>>);

impl WriteGate {
    /// Creates a gate that is closed until the first check.
    pub fn closed() -> Self {
        Self(Arc::new(RwLock::new(Err(NO_LAYOUT.to_owned()))))
    }

    /// Returns why no like can be taken if the gate is closed.
    pub fn state(&self) -> Result<OpenGate, String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the gate, or closes it with a reason that callers may see.
    pub fn set(&self, state: Result<OpenGate, String>) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if *now != state {
            match &state {
                Ok(OpenGate { sequence, time_ordered_ids_from }) => {
                    info!(sequence, ?time_ordered_ids_from, "write gate open");
                }
                Err(why) => warn!(why, "write gate closed"),
            }
            *now = state;
        }
    }
}

/// Checks layout and topic, and opens and closes a [`WriteGate`].
pub struct TopicMonitor {
    pub gate: WriteGate,
    /// Receives [`LAYOUT_READ`] and [`TOPIC_CHECKED`].
    pub health: Health,
    /// Receives the layouts, which determine the database of each product.
    pub databases: Databases,
    pub kafka: ClientConfig,
    pub publisher: Arc<Publisher>,
    pub topic: String,
    /// Between checks while the gate is open.
    pub interval: Duration,
}

impl TopicMonitor {
    /// Checks often until the gate is open, then every `interval`. Never returns.
    pub async fn run(self) -> std::convert::Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5).min(self.interval));
        let mut layout: Option<Layout> = None;
        let mut warned = Vec::new();
        loop {
            match self.read(layout.is_none()).await {
                Ok(read) => layout = Some(read),
                // The last layout stays in force until a newer one is read.
                Err(LayoutError::Refused(why)) => {
                    layout = None;
                    self.not_yet(LAYOUT_READ, &why, &why);
                }
                Err(LayoutError::Unavailable(why)) if layout.is_none() => self.not_yet(LAYOUT_READ, &why, NO_LAYOUT),
                Err(LayoutError::Missing(why)) if layout.is_none() => self.not_yet(LAYOUT_READ, &why, &why),
                Err(LayoutError::Unavailable(_) | LayoutError::Missing(_)) => {}
            }
            let settled = match &layout {
                Some(layout) => {
                    if self.health.met(LAYOUT_READ) {
                        let Layout { topic, sequence, partitions, .. } = layout;
                        info!(topic, sequence, partitions, "topic layout read");
                    }
                    self.check(layout, &mut warned).await
                }
                None => false,
            };
            if settled {
                backoff.reset();
            }
            let pause = if settled { self.interval } else { backoff.pause() };
            let _ = tokio::time::timeout(pause, self.publisher.facts().changed()).await;
        }
    }

    /// Reads the layout of our topic, if all databases permit writes.
    async fn read(&self, first: bool) -> Result<Layout, LayoutError> {
        let databases = self.databases.all();
        let read = async |(number, database)| {
            let at = self.at(number);
            read_layouts(database, first).await.map_err(|error| match sqlstate(&error).as_deref() {
                Some("42P01") => LayoutError::Missing(format!("the tables don't exist{at}: run like-aggregator setup")),
                Some("42703") => LayoutError::Missing(format!("the tables are old{at}: run like-aggregator setup")),
                _ => LayoutError::Unavailable(format!("PostgreSQL can't be queried{at}: {error}")),
            })
        };
        let layouts = try_join_all((1..).zip(databases).map(read)).await?;
        // First: what is read doesn't depend on whether this topic takes likes.
        let whole = self.databases.laid_out(&layouts, &self.topic);
        let own: Vec<Layout> =
            (1..).zip(&layouts).map(|(number, of)| self.own(number, of)).collect::<Result<_, _>>()?;
        whole.map_err(LayoutError::Refused)?;
        // All replicas must give a key the same event id, so all databases must know of its form.
        let whole = own.into_iter().reduce(|one, other| {
            let both = one.time_ordered_ids_from.zip(other.time_ordered_ids_from);
            Layout { time_ordered_ids_from: both.map(|(one, other)| one.max(other)), ..one }
        });
        Ok(whole.expect("DATABASE_URL is required"))
    }

    /// Returns our topic's layout of these, which are the database's with this number, if they permit writes.
    fn own(&self, number: usize, layouts: &[Layout]) -> Result<Layout, LayoutError> {
        let topic = &self.topic;
        let Some(own) = layouts.iter().find(|layout| layout.topic == *topic) else {
            let at = self.at(number);
            return Err(LayoutError::Missing(format!("topic {topic} has no layout{at}: run like-aggregator setup")));
        };
        if own.end_offsets.is_some() || own.closing {
            return Err(LayoutError::Refused(format!("topic {topic} is closed: likes go to the one after it")));
        }
        // Topics are folded in sequence: a like written here would wait for the whole earlier topic,
        // and one still written there would be overtaken.
        if let Some(open) = layouts.iter().find(|l| l.sequence < own.sequence && l.end_offsets.is_none()) {
            let earlier = &open.topic;
            return Err(LayoutError::Refused(format!("topic {earlier} comes before {topic} and is not closed yet")));
        }
        Ok(own.clone())
    }

    /// Names the database with this number, if there are several.
    fn at(&self, number: usize) -> String {
        match self.databases.all().len() {
            1 => String::new(),
            all => format!(" in database {number} of {all} (DATABASE_URL, then OTHER_DATABASE_URLS)"),
        }
    }

    /// Returns whether the gate is settled: the next check may wait for `interval`.
    async fn check(&self, layout: &Layout, warned: &mut Vec<String>) -> bool {
        let described = match topic_check::describe(&self.kafka, &self.topic).await {
            Ok(described) => described,
            // An open gate stays open: likes themselves report a Kafka outage.
            Err(error) => {
                let open = self.gate.state().is_ok();
                if open {
                    self.gate.set(Ok(layout.into()));
                } else {
                    let why = format!("Kafka can't be asked about the topic: {error:#}");
                    self.not_yet(TOPIC_CHECKED, &why, "Kafka can't be asked about the topic");
                }
                return open;
            }
        };
        let Findings { fatal, warnings } = topic_check::compare(described.as_ref(), &self.topic, layout.partitions);
        if *warned != warnings {
            for warning in &warnings {
                warn!(warning, "topic");
            }
            *warned = warnings;
        }
        if let Some(fatal) = fatal {
            if self.health.unmet(TOPIC_CHECKED, &fatal) {
                error!(fatal, "topic");
            }
            self.gate.set(Err(fatal));
            return false;
        }
        let max_batch = described.and_then(|live| live.setting(MAX_MESSAGE_BYTES).parse().ok()).unwrap_or(usize::MAX);
        if max_batch <= FENCE_BYTES {
            let topic = &self.topic;
            let why = format!("topic {topic} takes no record ({MAX_MESSAGE_BYTES}={max_batch}): it is being closed");
            self.not_yet(TOPIC_CHECKED, &why, &why);
            return false;
        }
        self.publisher.fit_batches(max_batch);
        self.health.met(TOPIC_CHECKED);
        self.gate.set(Ok(layout.into()));
        true
    }

    /// Closes the gate. `shown` is the reason for callers: servers' messages may hold host names.
    fn not_yet(&self, condition: &'static str, why: &str, shown: &str) {
        if self.health.unmet(condition, why) {
            info!(awaiting = condition, why, "not ready");
        }
        self.gate.set(Err(shown.to_owned()));
    }
}

/// Reads the layouts of a database. The first time, a connection of its own shows why a pool would have none, and whether a
/// pooler shares its sessions.
async fn read_layouts(database: &Database, first: bool) -> sqlx::Result<Vec<Layout>> {
    let read = async {
        if first {
            database.session.connect_unshared().await?.close().await?;
        }
        let mut connection = acquire(&database.pool).await?;
        let mut layouts = layout::read_all(&mut *connection).await;
        if connection.recovers(&layouts).await {
            layouts = layout::read_all(&mut *connection).await;
        }
        connection.release();
        layouts
    };
    tokio::time::timeout(READ_TIMEOUT, read).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Why there is no layout.
enum LayoutError {
    /// PostgreSQL can't be queried now.
    Unavailable(String),
    /// `setup` has not been run yet.
    Missing(String),
    /// The layout forbids writes to the topic.
    Refused(String),
}
