//! Settings of `setup`.

use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use like_common::cli::duration;
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;
use like_events::topic::DEFAULT_PARTITIONS;

/// Settings of `setup`.
#[derive(Args, Debug, Clone)]
pub struct SetupSettings {
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// the topic that comes before a new one in the order of folding: the way to more partitions
    #[arg(long, value_name = "TOPIC")]
    pub after: Option<String>,

    /// partitions of a topic that has to be made, 1 to 1024; fixed from then on
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARTITIONS, value_parser = clap::value_parser!(i32).range(1..=1024))]
    pub partitions: i32,

    /// replicas of a topic that has to be made; default: 3, or as many brokers as there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=9))]
    pub replication_factor: Option<i32>,

    /// how long a topic that has to be made keeps its records, a duration; default: for ever, since the log is the truth
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub retention: Option<Duration>,

    /// the database role of like-api: made without login if it doesn't exist, and allowed to read; default: none
    #[arg(long, value_name = "ROLE", value_parser = NonEmptyStringValueParser::new())]
    pub api_role: Option<String>,

    /// the database role of like-aggregator: made likewise, and allowed to count; default: none
    #[arg(long, value_name = "ROLE", value_parser = NonEmptyStringValueParser::new())]
    pub aggregator_role: Option<String>,

    /// how long Kafka and `PostgreSQL` are waited for: a duration
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}
