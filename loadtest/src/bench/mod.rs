//! `make bench`: what the services do, beside what limits them, in one run. A *step* measures one
//! thing once and leaves rows of figures in the ledger; where a ratio matters, its two sides are
//! steps of the same round, one right after the other, and the summary takes the median round.

pub mod chart;
pub mod draining;
pub mod floors;
pub mod freshness;
pub mod ledger;
pub mod logs;
pub mod memory;
pub mod prefill;
pub mod publish;
pub mod sender;
pub mod shedding;
pub mod steps;
pub mod streams;
pub mod summary;
pub mod targets;
pub mod tokens;
pub mod users;
pub mod wrk;

use std::path::PathBuf;

use serde_json::Value;

use crate::aggregator::{self, Aggregator};
use crate::api::Api;
use crate::database::Database;
use crate::drain::Place;
use crate::log;

/// The servers, the programs, and how much is asked for.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Kafka, host:port.
    pub kafka: String,
    /// The broker's process, to tell what it uses.
    pub kafka_pid: Option<i32>,
    /// PostgreSQL; only databases made for a measurement are touched.
    pub database_url: String,
    /// Where the logs of what is started are kept.
    pub out: PathBuf,
    /// A few minutes instead of the better part of an hour: smaller logs, one round.
    pub quick: bool,
    /// The like-api under measurement.
    pub like_api: PathBuf,
    /// The like-aggregator under measurement.
    pub like_aggregator: PathBuf,
    /// The route that like-api is compared with.
    pub bare_route: PathBuf,
}

impl Lab {
    /// For drains.
    pub fn place(&self) -> Place {
        Place {
            kafka: self.kafka.clone(),
            kafka_pid: self.kafka_pid,
            database_url: self.database_url.clone(),
            aggregator: self.like_aggregator.clone(),
            out: self.out.clone(),
        }
    }
}

/// What one measurement has shown, by name, in this order.
pub type Figures = serde_json::Map<String, Value>;

/// Figures out of names and values.
#[macro_export]
macro_rules! figures {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::bench::Figures::from_iter([$(($name.to_owned(), serde_json::json!($value))),*])
    };
}

/// A topic and a database of one measurement's own, and the services on them.
pub struct Site<'a> {
    lab: &'a Lab,
    database: Database,
}

impl<'a> Site<'a> {
    /// Empty ones.
    pub async fn create(lab: &'a Lab, what: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&lab.out)?;
        let name = format!("bench_{what}_{}", uuid::Uuid::now_v7().simple());
        let site = Self { lab, database: Database::create(&lab.database_url, &name).await? };
        if let Err(error) = aggregator::command(&lab.like_aggregator, &["setup"], &site.env()) {
            site.database.remove().await?;
            return Err(error);
        }
        Ok(site)
    }

    fn env(&self) -> [(&str, &str); 4] {
        [
            ("KAFKA_BOOTSTRAP_SERVERS", &self.lab.kafka),
            ("KAFKA_TOPIC", &self.database.name),
            ("KAFKA_GROUP_ID", &self.database.name),
            ("DATABASE_URL", &self.database.url),
        ]
    }

    /// A like-api that believes a header and lets everybody ask as often as they like, ready.
    pub async fn api(&self) -> anyhow::Result<Api> {
        self.api_with("api", &[("AUTH_MODE", "trusted-header"), ("RATE_LIMIT_USER", "0")]).await
    }

    /// A like-api with these settings, ready; its log is named after `name`.
    pub async fn api_with(&self, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<Api> {
        let env = [&self.env()[..], settings].concat();
        let log = self.lab.out.join(format!("bench-{name}.log"));
        Api::start(&self.lab.like_api, &env, &log).await
    }

    /// The database.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// A like-aggregator.
    pub fn aggregator(&self) -> anyhow::Result<Aggregator> {
        let log = self.lab.out.join("bench-aggregator.log");
        Aggregator::start(&self.lab.like_aggregator, &[], &self.env(), &log)
    }

    /// Removes both, whatever `result` is; what can't be removed is only said.
    pub async fn remove<T>(self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let name = self.database.name.clone();
        for removed in [log::delete(&self.lab.kafka, &name).await, self.database.remove().await] {
            if let Err(error) = removed {
                eprintln!("left behind: {error:#}");
            }
        }
        result
    }
}

/// The median, and of an even number the mean of the two in the middle; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n => f64::midpoint(values[(n - 1) / 2], values[n / 2]),
    }
}

/// The value that `percent` of the sorted values don't exceed; 0 of none.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Rounded for people: what is behind that is noise.
pub fn rounded(value: f64) -> f64 {
    let digits = if value.abs() < 100.0 { 100.0 } else { 1.0 };
    (value * digits).round() / digits
}
