//! Settings of `audit`, with and without `--log`.

use clap::{ArgMatches, Args, FromArgMatches};
use like_common::kafka::KafkaSettings;

use super::{DatabaseReportSettings, FoldSettings};

#[derive(Args, Debug, Clone)]
pub struct AuditSettings {
    #[command(flatten)]
    pub report: DatabaseReportSettings,
    /// For --log.
    #[command(flatten)]
    pub kafka: OptionalKafka,
    /// For --log.
    #[command(flatten)]
    pub fold: FoldSettings,

    /// fold the log from its start into tables of its own and compare likes, counts and hours with those; needs twice the disk space of the tables
    #[arg(long, conflicts_with = "repair")]
    pub log: bool,

    /// set every count, and every sum of hours, that differs to the number of its likes and delta events; needs --yes
    #[arg(long)]
    pub repair: bool,

    /// change the counts; without it --repair only shows which
    #[arg(long)]
    pub yes: bool,
}

/// Kafka's settings, for a command that needs them only with some flag. (clap takes an `Option<KafkaSettings>` for given,
/// and refuses it, once any of its variables is set.)
#[derive(Debug, Clone)]
pub struct OptionalKafka(pub Option<KafkaSettings>);

/// The argument whose presence decides.
const SERVERS: &str = "kafka_bootstrap_servers";

impl Args for OptionalKafka {
    fn augment_args(command: clap::Command) -> clap::Command {
        KafkaSettings::augment_args(command).mut_arg(SERVERS, |arg| arg.required(false))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        KafkaSettings::augment_args_for_update(command)
    }
}

impl FromArgMatches for OptionalKafka {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = matches.contains_id(SERVERS).then(|| KafkaSettings::from_arg_matches(matches));
        given.transpose().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
