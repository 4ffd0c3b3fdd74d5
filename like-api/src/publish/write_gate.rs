//! Whether likes may be published now, and under which sequence: the layout of the topic, read
//! from PostgreSQL, and the check that the topic still is what it says. Once read, a layout stays
//! in force while PostgreSQL is away: likes go on.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use like_common::backoff::Backoff;
use like_common::database::sqlstate;
use like_common::health::Health;
use like_common::layout::{self, Layout};
use like_common::topic_check::{self, Findings};
use rdkafka::ClientConfig;
use sqlx::PgPool;
use tracing::{error, info, warn};

use crate::metrics::pool::acquire;

/// Condition of readiness: `topic_layout` was read and lets this topic be written to.
pub const LAYOUT_READ: &str = "topic_layout";
/// Condition of readiness: the topic is what its layout says.
pub const TOPIC_CHECKED: &str = "topic";

/// Longest wait for the layout: a network that swallows the answer must not end the watch.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

const NO_LAYOUT: &str = "the topic's layout has not been read yet";

/// Open or closed; what writes look at.
#[derive(Clone)]
pub struct Gate(Arc<RwLock<Result<i32, String>>>);

impl Gate {
    /// Closed until the first look.
    pub fn closed() -> Self {
        Self(Arc::new(RwLock::new(Err(NO_LAYOUT.to_owned()))))
    }

    /// The sequence of the topic in `topic_layout`, or why no like can be taken.
    pub fn sequence(&self) -> Result<i32, String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens it with the topic's sequence, or closes it with the reason, which callers are told.
    pub fn set(&self, state: Result<i32, String>) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if *now != state {
            match &state {
                Ok(sequence) => info!(sequence, "likes are taken"),
                Err(why) => warn!(why, "no likes are taken"),
            }
            *now = state;
        }
    }
}

/// Looks at layout and topic, and opens and closes a [`Gate`].
pub struct Watch {
    /// What it opens and closes.
    pub gate: Gate,
    /// Where it reports [`LAYOUT_READ`] and [`TOPIC_CHECKED`].
    pub health: Health,
    /// Where the layout is.
    pub pool: PgPool,
    /// How brokers are asked.
    pub kafka: ClientConfig,
    /// The topic.
    pub topic: String,
    /// How often it looks, once it has seen that all is well.
    pub interval: Duration,
}

impl Watch {
    /// Looks often until likes can be taken, then every `interval`. Never ends.
    pub async fn run(self) -> std::convert::Infallible {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5).min(self.interval));
        let mut layout: Option<Layout> = None;
        let mut warned = Vec::new();
        loop {
            match self.read().await {
                Ok(read) => layout = Some(read),
                // The last one stays in force, unless a newer one says otherwise.
                Err(Unread::Refused(why)) => {
                    layout = None;
                    self.not_yet(LAYOUT_READ, &why, &why);
                }
                Err(Unread::Away(why)) if layout.is_none() => self.not_yet(LAYOUT_READ, &why, NO_LAYOUT),
                Err(Unread::Missing(why)) if layout.is_none() => self.not_yet(LAYOUT_READ, &why, &why),
                Err(Unread::Away(_) | Unread::Missing(_)) => {}
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
            tokio::time::sleep(if settled { self.interval } else { backoff.pause() }).await;
        }
    }

    /// The layout of our topic, if it may be written to.
    async fn read(&self) -> Result<Layout, Unread> {
        let read = async {
            let mut connection = acquire(&self.pool).await?;
            let layouts = layout::read_all(&mut *connection).await;
            connection.give_back();
            layouts
        };
        let read = tokio::time::timeout(READ_TIMEOUT, read).await;
        let layouts =
            read.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| match sqlstate(&error).as_deref() {
                Some("42P01") => Unread::Missing("the tables are not there: run like-aggregator setup".to_owned()),
                _ => Unread::Away(format!("PostgreSQL can't be asked: {error}")),
            })?;
        let topic = &self.topic;
        let Some(own) = layouts.iter().find(|layout| layout.topic == *topic) else {
            return Err(Unread::Missing(format!("topic {topic} has no layout: run like-aggregator setup")));
        };
        if own.end_offsets.is_some() {
            return Err(Unread::Refused(format!("topic {topic} is closed: likes go to the one after it")));
        }
        // Folded one after the other: a like written here would wait for all of the earlier topic,
        // and one still written there would be overtaken.
        if let Some(open) = layouts.iter().find(|l| l.sequence < own.sequence && l.end_offsets.is_none()) {
            let earlier = &open.topic;
            return Err(Unread::Refused(format!("topic {earlier} comes before {topic} and is not closed yet")));
        }
        Ok(own.clone())
    }

    /// Answers whether there is nothing to wait for.
    async fn check(&self, layout: &Layout, warned: &mut Vec<String>) -> bool {
        let described = match topic_check::describe(&self.kafka, &self.topic).await {
            Ok(described) => described,
            // An open gate stays open: Kafka being away shows in the likes themselves.
            Err(error) => {
                let open = self.gate.sequence().is_ok();
                if !open {
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
        self.health.met(TOPIC_CHECKED);
        self.gate.set(Ok(layout.sequence));
        true
    }

    /// `told` is what callers learn of it: what servers say may hold names and addresses.
    fn not_yet(&self, condition: &'static str, why: &str, told: &str) {
        if self.health.unmet(condition, why) {
            info!(awaiting = condition, why, "not ready");
        }
        self.gate.set(Err(told.to_owned()));
    }
}

enum Unread {
    /// There is nothing to be read now.
    Away(String),
    /// `setup` has not been run yet.
    Missing(String),
    /// What was read says that nobody may write to the topic.
    Refused(String),
}
