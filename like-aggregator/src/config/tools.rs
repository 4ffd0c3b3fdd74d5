//! Settings of the commands that look, move and repair.

use clap::Args;
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
