//! `make bench`: what the whole costs, each part a module of its own that answers figures by name.

pub mod freshness;
pub mod memory;
pub mod publish;
pub mod sender;
pub mod wrk;

use std::path::PathBuf;

use serde_json::Value;

use crate::aggregator::{self, Aggregator};
use crate::api::Api;
use crate::database::Database;
use crate::log;

/// Where measurements are made.
pub struct Lab {
    /// Kafka's address.
    pub kafka: String,
    /// PostgreSQL; only databases made for a measurement are touched.
    pub database_url: String,
    /// Where the logs of what is started are kept.
    pub out: PathBuf,
    /// Short runs, to see that all of it works.
    pub quick: bool,
    /// Where the programs are: `target/release`.
    pub programs: PathBuf,
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
        if let Err(error) = aggregator::command(&lab.programs.join("like-aggregator"), &["setup"], &site.env()) {
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

    /// A like-api, ready.
    pub async fn api(&self) -> anyhow::Result<Api> {
        Api::start(&self.lab.programs.join("like-api"), &self.env(), &self.lab.out.join("bench-api.log")).await
    }

    /// A like-aggregator.
    pub fn aggregator(&self) -> anyhow::Result<Aggregator> {
        let log = self.lab.out.join("bench-aggregator.log");
        Aggregator::start(&self.lab.programs.join("like-aggregator"), &[], &self.env(), &log)
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
