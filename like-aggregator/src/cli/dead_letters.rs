//! Settings of `dead-letters`.

use std::fmt;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde::{Serialize, Serializer};

use super::{DatabaseReportSettings, ReportSettings};

#[derive(Subcommand, Debug)]
pub enum DeadLettersSettings {
    /// List them, by position
    List(DeadLettersListSettings),
    /// Show everything that is kept of one
    Show(DeadLettersShowSettings),
    /// Publish those that are valid events again, at the log's end and with the same event id; exit status 1 if any is refused
    Redrive(DeadLettersRedriveSettings),
    /// Delete some; needs --yes
    Drop(DeadLettersDropSettings),
}

#[derive(Args, Debug, Clone)]
pub struct DeadLettersListSettings {
    #[command(flatten)]
    pub report: DatabaseReportSettings,

    /// only those whose reason begins with this code, such as `key_mismatch`
    #[arg(long, value_name = "CODE")]
    pub reason: Option<String>,

    /// how many to list at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
}

#[derive(Args, Debug, Clone)]
pub struct DeadLettersShowSettings {
    #[command(flatten)]
    pub report: DatabaseReportSettings,

    /// which one, as listed: topic/partition/offset
    #[arg(value_name = "POSITION", value_parser = RecordPosition::from_str)]
    pub position: RecordPosition,
}

#[derive(Args, Debug, Clone)]
pub struct DeadLettersRedriveSettings {
    #[command(flatten)]
    pub report: ReportSettings,
    #[command(flatten)]
    pub which: Selection,

    /// also where the log has a later event of the same user and product: the older state comes back
    #[arg(long)]
    pub even_if_changed: bool,
}

#[derive(Args, Debug, Clone)]
pub struct DeadLettersDropSettings {
    #[command(flatten)]
    pub report: DatabaseReportSettings,
    #[command(flatten)]
    pub which: Selection,

    /// do it; without it the command only counts them
    #[arg(long)]
    pub yes: bool,
}

/// A selection of dead letters. clap makes sure that exactly one of the three is given.
#[derive(Args, Debug, Clone, Default)]
pub struct Selection {
    /// which ones, as listed: topic/partition/offset (or --reason, or --all)
    #[arg(value_name = "POSITIONS", value_parser = RecordPosition::from_str, required_unless_present_any = ["reason", "all"], conflicts_with_all = ["reason", "all"])]
    pub positions: Vec<RecordPosition>,

    /// those whose reason begins with this code, such as `key_mismatch`
    #[arg(long, value_name = "CODE", conflicts_with = "all")]
    pub reason: Option<String>,

    /// all of them
    #[arg(long)]
    pub all: bool,
}

/// The three columns of positions, or none if any position is selected.
type Columns<'a> = (Option<Vec<&'a str>>, Option<Vec<i32>>, Option<Vec<i64>>);

impl Selection {
    /// Returns the positions as arrays for SQL, or no arrays if any position is selected. Empty arrays select nothing.
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

/// The position of a record. No topic's name has a slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

impl FromStr for RecordPosition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let [topic, partition, offset] = text.split('/').collect::<Vec<_>>().try_into().ok()?;
            Some(Self { topic: topic.to_owned(), partition: partition.parse().ok()?, offset: offset.parse().ok()? })
        };
        parsed().ok_or_else(|| "such as like-update-topic-v1/3/17".to_owned())
    }
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl Serialize for RecordPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
