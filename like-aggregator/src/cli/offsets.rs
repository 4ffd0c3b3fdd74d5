//! Settings of `offsets`.

use std::str::FromStr;

use clap::{Args, Subcommand};
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;

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
    #[arg(long, value_name = "WHERE", value_parser = OffsetTarget::from_str)]
    pub to: OffsetTarget,

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
pub enum OffsetTarget {
    /// The log's start.
    Earliest,
    /// Its end.
    Latest,
    /// A record of it, or its end.
    Offset(i64),
}

impl FromStr for OffsetTarget {
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
