//! Settings of the commands that fold the log once more, or say in which order it is folded.

use std::time::Duration;

use clap::{Args, Subcommand};
use like_common::cli::duration;
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;

use super::FoldSettings;

/// Settings of `rebuild`.
#[derive(Args, Debug, Clone)]
pub struct RebuildSettings {
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// How the log is folded: the same as the aggregators that will go on with it.
    #[command(flatten)]
    pub fold: FoldSettings,

    /// yes, replace the tables that are there
    #[arg(long)]
    pub yes: bool,

    /// drop the old tables after the swap instead of keeping them beside the new ones
    #[arg(long)]
    pub drop_old: bool,
}

/// Settings of `topics`.
#[derive(Args, Debug, Clone)]
pub struct TopicsSettings {
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// What to do but list them.
    #[command(subcommand)]
    pub command: Option<TopicsCommand>,
}

/// What `topics` can do.
#[derive(Subcommand, Debug, Clone)]
pub enum TopicsCommand {
    /// Record that a topic, to which no producer writes any more, ends here
    Close(TopicsCloseSettings),
}

/// Settings of `topics close`.
#[derive(Args, Debug, Clone)]
pub struct TopicsCloseSettings {
    /// the topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,

    /// wait for so long until it is folded to its end: a duration such as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,

    /// do it; it can't be undone
    #[arg(long)]
    pub yes: bool,
}
