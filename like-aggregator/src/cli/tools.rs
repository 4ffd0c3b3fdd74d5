//! Settings of the commands that look, move and repair.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use like_common::cli::duration;
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;
use like_events::UserId;
use serde::{Serialize, Serializer};

use super::FoldSettings;

/// Settings of `audit`.
#[derive(Args, Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct AuditSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// Where Kafka is: for --log.
    #[command(flatten)]
    pub kafka: PerhapsKafka,
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

/// Where Kafka is, for a command that may do without. (clap takes an `Option<KafkaSettings>` for
/// given, and refuses it, once any of its variables is set.)
#[derive(Debug, Clone)]
pub struct PerhapsKafka(pub Option<KafkaSettings>);

/// What decides whether it is given.
const SERVERS: &str = "kafka_bootstrap_servers";

impl Args for PerhapsKafka {
    fn augment_args(command: clap::Command) -> clap::Command {
        KafkaSettings::augment_args(command).mut_arg(SERVERS, |arg| arg.required(false))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        KafkaSettings::augment_args_for_update(command)
    }
}

impl FromArgMatches for PerhapsKafka {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = matches.contains_id(SERVERS).then(|| KafkaSettings::from_arg_matches(matches));
        given.transpose().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
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

/// What `dead-letters` can do.
#[derive(Subcommand, Debug)]
pub enum DeadLettersSettings {
    /// List them, by position
    List(DeadLettersListSettings),
    /// Show all that is kept of one
    Show(DeadLettersShowSettings),
    /// Publish again, at the log's end and with the same event id, those that are events after all; exit status 1 if any is refused
    Redrive(DeadLettersRedriveSettings),
    /// Forget some; asks for --yes
    Drop(DeadLettersDropSettings),
}

/// Settings of `dead-letters list`.
#[derive(Args, Debug, Clone)]
pub struct DeadLettersListSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// only those whose reason begins with this code, such as `key_mismatch`
    #[arg(long, value_name = "CODE")]
    pub reason: Option<String>,

    /// how many to list at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Settings of `dead-letters show`.
#[derive(Args, Debug, Clone)]
pub struct DeadLettersShowSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// which one, as listed: topic/partition/offset
    #[arg(value_name = "POSITION", value_parser = Position::from_str)]
    pub position: Position,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Settings of `dead-letters redrive`.
#[derive(Args, Debug, Clone)]
pub struct DeadLettersRedriveSettings {
    /// Where Kafka is, and the topic to publish to.
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Which letters.
    #[command(flatten)]
    pub which: Which,

    /// also where the user has wished otherwise since: the older wish comes back
    #[arg(long)]
    pub even_if_changed: bool,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Settings of `dead-letters drop`.
#[derive(Args, Debug, Clone)]
pub struct DeadLettersDropSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,
    /// Which letters.
    #[command(flatten)]
    pub which: Which,

    /// one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// do it; without it the command only counts them
    #[arg(long)]
    pub yes: bool,
}

/// A selection of dead letters; clap sees to it that one of the three is given.
#[derive(Args, Debug, Clone, Default)]
pub struct Which {
    /// which ones, as listed: topic/partition/offset (or --reason, or --all)
    #[arg(value_name = "POSITIONS", value_parser = Position::from_str, required_unless_present_any = ["reason", "all"], conflicts_with_all = ["reason", "all"])]
    pub positions: Vec<Position>,

    /// those whose reason begins with this code, such as `key_mismatch`
    #[arg(long, value_name = "CODE", conflicts_with = "all")]
    pub reason: Option<String>,

    /// all of them
    #[arg(long)]
    pub all: bool,
}

/// The three columns of positions, or none if any position will do.
type Columns<'a> = (Option<Vec<&'a str>>, Option<Vec<i32>>, Option<Vec<i64>>);

impl Which {
    /// The positions as arrays for SQL; no arrays if any position will do. None named is none meant.
    pub fn columns(&self) -> Columns<'_> {
        if self.all || self.reason.is_some() {
            return (None, None, None);
        }
        let positions = || self.positions.iter();
        (
            Some(positions().map(|p| p.topic.as_str()).collect()),
            Some(positions().map(|p| p.partition).collect()),
            Some(positions().map(|p| p.offset).collect()),
        )
    }
}

/// Where a record stands in a log. No topic's name has a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let [topic, partition, offset] = text.split('/').collect::<Vec<_>>().try_into().ok()?;
            Some(Self { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parsed().ok_or_else(|| "such as like-update-topic-v1/3/17".to_owned())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
