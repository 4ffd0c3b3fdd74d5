//! Settings of the commands that publish likes: `import` and `erase-user`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use like_common::cli::duration;
use like_events::UserId;

use super::ReportSettings;

#[derive(Args, Debug, Clone)]
pub struct ImportSettings {
    #[command(flatten)]
    pub report: ReportSettings,

    /// the file, CSV in UTF-8: product_id,user_id on each line; a first line with these names is optional
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// rows to publish per second at most; default: no limit. For imports after opening: live likes wait behind the rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,

    /// how long the broker may take to accept a row: a duration
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Args, Debug, Clone)]
pub struct EraseUserSettings {
    #[command(flatten)]
    pub report: ReportSettings,

    /// whose likes: users' ids, as like-api got them
    #[arg(value_name = "USER", required_unless_present = "file", value_parser = |text: &str| UserId::parse(text))]
    pub users: Vec<UserId>,

    /// a file with the ids of further users, one per line
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// how long an aggregator may take to count what is in the log: a duration
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,

    /// do it; without it the command only counts the likes
    #[arg(long)]
    pub yes: bool,
}
