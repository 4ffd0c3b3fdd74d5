//! Settings of like-aggregator, one struct per subcommand, built from those that both services share. Here: what all
//! commands share, and `run`.

mod audit;
mod dead_letters;
mod likes;
mod offsets;
mod setup;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use like_common::cli::duration;
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;
use like_common::telemetry::LogSettings;

use crate::schema::fold_rules::FoldRules;

pub use self::audit::*;
pub use self::dead_letters::*;
pub use self::likes::*;
pub use self::offsets::*;
pub use self::setup::*;

/// Folds like events from Kafka into counts in `PostgreSQL`, each exactly once.
#[derive(Parser, Debug)]
#[command(version)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogSettings,
    #[command(subcommand)]
    pub command: CliCommand,
}

#[derive(Subcommand, Debug)]
pub enum CliCommand {
    /// Count: read the topic and apply it, until a signal
    Run(RunSettings),
    /// Create the topic, the tables and the offset rows, or check them; safe to repeat
    Setup(SetupSettings),
    /// List the topics in the order of folding, or close one so that the next is folded
    Topics(TopicsSettings),
    /// Fold the log again into new tables beside the live ones, then swap them: after a bug in the fold
    Rebuild(RebuildSettings),
    /// Show how far each partition is folded, lag, gaps, dead letters, versions
    Status(ReportSettings),
    /// Compare every count with the likes behind it; exit status 1 if any differs
    Audit(AuditSettings),
    /// Show or move the offsets up to which the log is folded
    #[command(subcommand)]
    Offsets(OffsetsSettings),
    /// List, show, publish again or drop the records that broke a rule
    #[command(subcommand)]
    DeadLetters(DeadLettersSettings),
    /// Publish likes that were kept elsewhere, before opening, from a file of product_id,user_id; safe to repeat
    Import(ImportSettings),
    /// Publish unlikes for all likes of some users and delete the users' rows; needs --yes
    EraseUser(EraseUserSettings),
    /// Ask a running aggregator whether its loops are alive (with --ready: whether it is ready); exit status 0 if so
    Healthcheck(HealthcheckSettings),
}

#[derive(Args, Debug, Clone)]
pub struct Servers {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub database: DatabaseSettings,
}

#[derive(Args, Debug, Clone)]
pub struct ReportSettings {
    #[command(flatten)]
    pub servers: Servers,

    /// one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug, Clone)]
pub struct DatabaseReportSettings {
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug, Clone)]
pub struct AdminSettings {
    /// the address of /livez, /readyz and /metrics, host:port
    #[arg(long, env = "ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:8082")]
    pub admin_addr: SocketAddr,
}

/// Where repeats are dropped. `setup` records it; a process that is given something else refuses to work.
#[derive(Args, Debug, Clone, Default)]
pub struct DedupSettings {
    /// how repeats are recognised: history (against all that was folded) or batch (inside a batch only: faster, and a repeat in a later batch can restore an older state); default: what setup recorded, at first history
    #[arg(long, env = "DEDUP", value_enum)]
    pub dedup: Option<DedupMode>,

    /// how long an event id is remembered, by record time: a duration such as 48h; default: what setup recorded, at first 48h
    #[arg(long, env = "DEDUP_WINDOW", value_name = "DURATION", value_parser = dedup_window)]
    pub dedup_window: Option<Duration>,
}

impl DedupSettings {
    /// Returns `rules` with what is set here in their place.
    pub fn over(&self, rules: FoldRules) -> FoldRules {
        FoldRules {
            is_history: self.dedup.map_or(rules.is_history, |mode| mode == DedupMode::History),
            window: self.dedup_window.unwrap_or(rules.window),
        }
    }

    /// Refuses what differs from the recorded rules.
    pub fn check(&self, recorded: FoldRules) -> anyhow::Result<FoldRules> {
        let own = self.over(recorded);
        if own != recorded {
            bail!(
                "the database holds {recorded}, and this process is given {own}: unset DEDUP and DEDUP_WINDOW, or change \
                 the recorded ones by `setup --change-dedup`"
            );
        }
        Ok(recorded)
    }
}

#[derive(Args, Debug, Clone)]
pub struct HealthcheckSettings {
    #[command(flatten)]
    pub admin: AdminSettings,

    /// ask /readyz, which needs Kafka and PostgreSQL, instead of /livez
    #[arg(long)]
    pub ready: bool,
}

/// How a log is folded: by `run`, and by the commands that fold it again.
#[derive(Args, Debug, Clone)]
pub struct FoldSettings {
    /// the consumer group that shares the partitions; a replay appends -replay to it
    #[arg(long, env = "KAFKA_GROUP_ID", value_name = "GROUP", default_value = "like-aggregator", value_parser = NonEmptyStringValueParser::new())]
    pub kafka_group_id: String,

    #[command(flatten)]
    pub dedup: DedupSettings,

    /// records per batch at most, 1 to 100000: larger is faster and takes more memory
    #[arg(long, env = "BATCH_MAX_EVENTS", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_max_events: u32,
}

#[derive(Args, Debug, Clone)]
pub struct RunSettings {
    #[command(flatten)]
    pub servers: Servers,
    #[command(flatten)]
    pub fold: FoldSettings,
    #[command(flatten)]
    pub admin: AdminSettings,

    /// the least time between the beginnings of two batches that are not full: a duration such as 100ms
    #[arg(long, env = "BATCH_MAX_WAIT", value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub batch_max_wait: Duration,

    /// lanes that apply batches side by side, each with a connection to PostgreSQL and a share of the partitions, 1 to 64
    #[arg(long, env = "APPLY_LANES", value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub apply_lanes: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DedupMode {
    /// Against all that was folded within `DEDUP_WINDOW`.
    History,
    /// Inside a batch only.
    Batch,
}

/// Parses a window. One of no time would remember nothing; one of years would keep every event id.
fn dedup_window(text: &str) -> Result<Duration, String> {
    let window = duration(text)?;
    let range = Duration::from_secs(60)..=Duration::from_secs(366 * 86_400);
    if range.contains(&window) { Ok(window) } else { Err("expected 1m to 366days".to_owned()) }
}
