//! Settings of `offsets`.

use std::str::FromStr;

use clap::{Args, Subcommand};

use super::{DatabaseReportSettings, ReportSettings};

#[derive(Subcommand, Debug)]
pub enum OffsetsSettings {
    /// Show up to where each partition is folded, and the gaps that were never folded
    Show(DatabaseReportSettings),
    /// Move the stored offsets, and say what it means for the counts
    Reset(OffsetsResetSettings),
}

#[derive(Args, Debug, Clone)]
pub struct OffsetsResetSettings {
    #[command(flatten)]
    pub report: ReportSettings,

    /// the next record to fold: earliest, latest or an offset
    #[arg(long, value_name = "WHERE", value_parser = OffsetTarget::from_str)]
    pub to: OffsetTarget,

    /// the partition to move, or --all
    #[arg(long, value_name = "N", required_unless_present = "all", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,

    /// move every partition
    #[arg(long, conflicts_with = "partition")]
    pub all: bool,

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
