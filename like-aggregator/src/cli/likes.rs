//! Settings of the commands that publish likes: `import` and `erase-user`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use like_common::cli::duration;
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;
use like_events::UserId;

/// Settings of `import`.
#[derive(Args, Debug, Clone)]
pub struct ImportSettings {
    /// Where Kafka is, and the topic to publish to.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is: the topic's layout is read there.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// the file, CSV in UTF-8: product_id,user_id on each line, those two names on the first if you like
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// how long the broker is given to take a row: a duration
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,

    /// one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Settings of `erase-user`.
#[derive(Args, Debug, Clone)]
pub struct EraseUserSettings {
    /// Where Kafka is, and the topic to publish to.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// whose likes: the user's id, as like-api was given it
    #[arg(value_name = "USER", value_parser = |text: &str| UserId::parse(text))]
    pub user: UserId,

    /// how long an aggregator is given to count what the log holds: a duration
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,

    /// one JSON object instead of text
    #[arg(long)]
    pub json: bool,

    /// do it; without it the command only counts the likes
    #[arg(long)]
    pub yes: bool,
}
