//! Settings of the commands that look, move and repair.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use like_service::cli::duration;
use like_service::database::DatabaseSettings;
use like_service::kafka::KafkaSettings;

use super::FoldSettings;

/// Settings of `audit`.
#[derive(Args, Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
// Without --log nobody asks Kafka anything.
#[command(mut_arg("kafka_bootstrap_servers", |arg| arg.required(false)))]
pub struct AuditSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Where Kafka is: for --log.
    #[command(flatten)]
    pub kafka: Option<KafkaSettings>,
    /// How the log is folded: for --log, the same as the aggregators'.
    #[command(flatten)]
    pub fold: FoldSettings,

    /// fold the log from its start into tables of its own and compare likes and counts with that; needs as much disk as the tables have, twice
    #[arg(long, conflicts_with = "repair")]
    pub log: bool,

    /// set every count that differs to what the likes say; asks for --yes
    #[arg(long)]
    pub repair: bool,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// change the counts; without it --repair only shows which
    #[arg(long)]
    pub yes: bool,
}

/// What `offsets` can do.
#[derive(Subcommand, Debug)]
pub enum OffsetsSettings {
    /// Show up to where each partition is folded, and what was never folded
    Show(OffsetsShowSettings),
    /// Move that, and say what it means for the counts
    Reset(OffsetsResetSettings),
}

/// Settings of `offsets show`.
#[derive(Args, Debug, Clone)]
pub struct OffsetsShowSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Settings of `offsets reset`.
#[derive(Args, Debug, Clone)]
pub struct OffsetsResetSettings {
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// the next record to fold: earliest, latest or an offset
    #[arg(long, value_name = "WHERE", value_parser = Target::from_str)]
    pub to: Target,

    /// the partition to move, or --all
    #[arg(long, value_name = "N", required_unless_present = "all", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,

    /// move every partition
    #[arg(long, conflicts_with = "partition")]
    pub all: bool,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// do it; without it the command only shows what it would do
    #[arg(long)]
    pub yes: bool,
}

/// Where an offset is moved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The log's start.
    Earliest,
    /// Its end.
    Latest,
    /// A record of it, or its end.
    Offset(i64),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            _ => match text.parse() {
                Ok(offset @ 0..) => Ok(Self::Offset(offset)),
                _ => Err("it is none of these".to_owned()),
            },
        }
    }
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
