//! Settings of `rebuild`, which folds the log again, and `topics`, which lists the order of folding.

use std::time::Duration;

use clap::{Args, Subcommand};
use like_common::cli::duration;

use super::{FoldSettings, ReportSettings, Servers};

#[derive(Args, Debug, Clone)]
pub struct RebuildSettings {
    #[command(flatten)]
    pub servers: Servers,
    #[command(flatten)]
    pub fold: FoldSettings,

    /// replace the live tables
    #[arg(long)]
    pub yes: bool,

    /// drop the old tables after the swap instead of keeping them beside the new ones
    #[arg(long)]
    pub drop_old: bool,
}

#[derive(Args, Debug, Clone)]
pub struct TopicsSettings {
    #[command(flatten)]
    pub report: ReportSettings,

    /// None: list them.
    #[command(subcommand)]
    pub command: Option<TopicsCommand>,
}

#[derive(Subcommand, Debug, Clone)]
pub enum TopicsCommand {
    /// Record that a topic, to which no producer writes any more, ends here
    Close(TopicsCloseSettings),
}

#[derive(Args, Debug, Clone)]
pub struct TopicsCloseSettings {
    /// the topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,

    /// how long to wait until it is folded to its end: a duration such as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,

    /// do it; it can't be undone
    #[arg(long)]
    pub yes: bool,
}
