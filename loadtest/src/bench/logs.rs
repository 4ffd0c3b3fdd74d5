//! The filled topics of a run: each made when a step first needs it, shared by all that read it
//! (every drain has a group and a database of its own), deleted when no step to come does.

use std::collections::HashMap;

use crate::backlog::Backlog;
use crate::generate::{EventIds, Shape};
use crate::log;

/// Which log: what differs between those of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogKey {
    /// Events in it.
    pub events: u64,
    /// Different products.
    pub products: u32,
    /// Different users; None: delta events.
    pub users: Option<u32>,
    /// Of 100 likes, how many go to one product beside its share.
    pub hot_percent: u32,
    /// Of the topic.
    pub partitions: i32,
}

impl LogKey {
    /// A log of the standard shape: 1,000 products, ten events a user, 32 partitions.
    pub fn of(events: u64, of_users: bool) -> Self {
        let users = of_users.then_some((events / 10).max(1) as u32);
        Self { events, products: 1_000, users, hot_percent: 0, partitions: 32 }
    }
}

/// Those that are there.
pub struct Logs {
    kafka: String,
    filled: HashMap<LogKey, Backlog>,
}

impl Logs {
    /// None yet.
    pub fn new(kafka: &str) -> Self {
        Self { kafka: kafka.to_owned(), filled: HashMap::new() }
    }

    /// The log, filled now unless it is there.
    pub async fn get(&mut self, key: LogKey) -> anyhow::Result<&Backlog> {
        if !self.filled.contains_key(&key) {
            let topic = format!("bench_{}", uuid::Uuid::now_v7().simple());
            let LogKey { events, products, users, hot_percent, partitions } = key;
            let shape = Shape { events, products, users, hot_percent, event_ids: EventIds::V7, seed: 1 };
            self.filled.insert(key, Backlog::fill(&self.kafka, &topic, partitions, shape).await?);
        }
        Ok(&self.filled[&key])
    }

    /// Deletes those that nobody will ask for again.
    pub async fn keep(&mut self, needed: impl Fn(&LogKey) -> bool) {
        let (kept, done): (HashMap<_, _>, _) = self.filled.drain().partition(|(key, _)| needed(key));
        self.filled = kept;
        for backlog in done.into_values() {
            if let Err(error) = log::delete(&self.kafka, &backlog.topic).await {
                eprintln!("left behind: {error:#}");
            }
        }
    }
}
