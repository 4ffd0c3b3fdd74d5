//! What all experiments start from: the servers, and on them topics and databases of their own.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::anyhow;
use like_aggregator::apply::transaction::Store;
use like_aggregator::fold::Dedup;
use like_common::database::{DatabaseUrl, SCHEMA};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use crate::aggregator;
use crate::database::Database;

/// How long anything may take that takes a moment.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// `DEDUP_WINDOW`'s default.
pub const HISTORY: Dedup = Dedup::History(Duration::from_secs(48 * 3600));

/// The servers, and where things are.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Kafka, host:port.
    pub brokers: String,
    /// Where clients of the broker's second listener are told to come to; host:port.
    pub proxy: String,
    /// Where that listener is; host:port.
    pub behind_proxy: String,
    /// PostgreSQL; only databases made here are touched.
    pub database_url: String,
    /// The folder of the services' programs.
    pub programs: PathBuf,
    /// Where the services' logs go.
    pub logs: PathBuf,
    /// Another seed, other events.
    pub seed: u64,
}

/// A topic of an experiment's own.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

impl Lab {
    /// The experiments' randomness: the same in every run of one seed.
    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }

    /// What a client of these brokers starts from.
    pub fn client(&self, settings: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("allow.auto.create.topics", "false");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config
    }

    /// A name that nothing else has.
    pub fn name() -> String {
        format!("claims_{}", Uuid::now_v7().simple())
    }

    /// A new topic.
    pub async fn topic(&self, partitions: i32) -> anyhow::Result<Topic> {
        let name = Self::name();
        let admin: AdminClient<DefaultClientContext> = self.client(&[]).create()?;
        let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        let topic = topic.set("message.timestamp.type", "LogAppendTime");
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for made in admin.create_topics([&topic], &options).await? {
            made.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        Ok(Topic { name, partitions })
    }

    /// An empty database.
    pub async fn database(&self) -> anyhow::Result<Database> {
        Database::create(&self.database_url, &Self::name()).await
    }

    /// A database as `like-aggregator setup` makes it, for this topic, which it makes too where it
    /// isn't there.
    pub async fn set_up(&self, topic: &Topic) -> anyhow::Result<Database> {
        let database = self.database().await?;
        let partitions = topic.partitions.to_string();
        let env = self.service_env(topic, &database.url);
        aggregator::command(&self.programs.join("like-aggregator"), &["setup", "--partitions", &partitions], &env)?;
        Ok(database)
    }

    /// What both services are told.
    pub fn service_env<'a>(&'a self, topic: &'a Topic, url: &'a str) -> [(&'a str, &'a str); 5] {
        [
            ("KAFKA_BOOTSTRAP_SERVERS", &self.brokers),
            ("KAFKA_TOPIC", &topic.name),
            ("KAFKA_GROUP_ID", &topic.name),
            ("DATABASE_URL", url),
            ("AUTH_MODE", "trusted-header"),
        ]
    }

    /// The store that folds this topic into this database.
    pub fn store(topic: &Topic, database: &Database, dedup: Dedup) -> anyhow::Result<Store> {
        let url = DatabaseUrl::from_str(&database.url).map_err(|error| anyhow!(error))?;
        Ok(Store::new(&url, SCHEMA, &topic.name, dedup))
    }
}

/// A connection for what is naive.
pub async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
    Ok(PgConnection::connect_with(&options).await?)
}
