//! Settings of `setup`, `rebuild` and `topics`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use like_common::cli::duration;
use like_common::layout::parse_partitions;
use like_events::topic::DEFAULT_PARTITIONS;

use crate::schema::user_likes::OnOff;

use super::{DedupSettings, FoldSettings, ReportSettings, Servers};

#[derive(Args, Debug, Clone)]
pub struct SetupSettings {
    #[command(flatten)]
    pub servers: Servers,

    /// the topic that comes before a new one in the order of folding: the way to more partitions
    #[arg(long, value_name = "TOPIC")]
    pub after: Option<String>,

    /// partitions of a new topic, 1 to 1024; fixed from then on
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARTITIONS, value_parser = clap::value_parser!(i32).range(1..=1024))]
    pub partitions: i32,

    /// the partitions whose products this database holds, such as 0-5 or 0-5,12-17; recorded once; default: all, or what belongs to those of the topic before
    #[arg(long, value_name = "RANGES", value_parser = parse_partitions)]
    pub hold_partitions: Option<std::vec::Vec<i32>>,

    /// replicas of a new topic; default: 3, or as many brokers as there are
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=9))]
    pub replication_factor: Option<i32>,

    /// how long a new topic keeps its records, a duration; default: for ever, since the log is the source of truth
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub retention: Option<Duration>,

    #[command(flatten)]
    pub dedup: DedupSettings,

    /// record another DEDUP or `DEDUP_WINDOW`: repeats of what was folded before are judged by the new ones, and running aggregators end until they are restarted
    #[arg(long)]
    pub change_dedup: bool,

    /// fold on by this build's fold version on a log whose start is gone: counts made by the old version stay as they are
    #[arg(long)]
    pub adopt_fold_version: bool,

    /// let keys that are `UUIDv7`s give time-ordered event ids, from ten minutes after now: run it once, when every like-api is of this release; in a further database of a topic, from the time that `status` of the first one shows
    #[arg(long, value_name = "FROM", num_args = 0..=1)]
    pub time_ordered_ids: Option<Option<DateTime<Utc>>>,

    /// the index that lists a user's likes (`GET /v1/me/likes`): made or dropped beside running services; default: on for a new system, else as it is
    #[arg(long, value_name = "on|off", value_enum)]
    pub user_likes: Option<OnOff>,

    /// the database role of like-api: created without login if it doesn't exist, and allowed to read; default: none
    #[arg(long, value_name = "ROLE", value_parser = NonEmptyStringValueParser::new())]
    pub api_role: Option<String>,

    /// the database role of like-aggregator: created likewise, and allowed to count; default: none
    #[arg(long, value_name = "ROLE", value_parser = NonEmptyStringValueParser::new())]
    pub aggregator_role: Option<String>,

    /// how long to wait for Kafka and `PostgreSQL`: a duration
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Args, Debug, Clone)]
pub struct RebuildSettings {
    #[command(flatten)]
    pub servers: Servers,
    #[command(flatten)]
    pub fold: FoldSettings,

    /// replace the live tables
    #[arg(long)]
    pub yes: bool,

    /// go on although views, indexes, triggers or other objects that aren't ours would stay with the old tables
    #[arg(long)]
    pub leave_behind: bool,

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
    /// Fence the producers of a topic at the broker, fold it to its end and record that end
    Close(TopicsCloseSettings),
    /// Publish what was written past the end of a closed topic again, to the open topic
    Republish(TopicsRepublishSettings),
}

#[derive(Args, Debug, Clone)]
pub struct TopicsRepublishSettings {
    /// the closed topic
    #[arg(value_name = "TOPIC")]
    pub topic: String,

    /// do it; without it the command only counts them
    #[arg(long)]
    pub yes: bool,
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
