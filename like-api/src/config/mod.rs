//! What can be set, and the command line: flags and environment of `like-api` itself. What the
//! contract fixes is no setting; Kafka's, PostgreSQL's and the logs' are like-common's.

mod auth;
mod browser;
mod jwt;
mod limits;
mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser};
use like_common::database::DatabaseSettings;
use like_common::kafka::KafkaSettings;
use like_common::telemetry::LogSettings;
use like_common::topic_check;

pub use self::auth::{AuthMode, AuthSettings};
pub use self::browser::{AllowedOrigin, BrowserSettings};
pub use self::jwt::{JwksTiming, JwtAlgorithm, JwtSettings};
pub use self::limits::{LimitSettings, ProxyHeader};
pub use self::stream::StreamSettings;

/// Takes likes over HTTP and publishes them to Kafka; answers counts from PostgreSQL.
#[derive(Parser, Debug, Clone)]
#[command(name = "like-api", version)]
pub struct Config {
    /// address and port for callers, such as 127.0.0.1:8080
    #[arg(long, env = "LISTEN_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen_addr: SocketAddr,

    /// The admin port.
    #[command(flatten)]
    pub admin: AdminSettings,

    /// Who the caller is.
    #[command(flatten)]
    pub auth: AuthSettings,

    /// How much is taken.
    #[command(flatten)]
    pub limits: LimitSettings,

    /// Live counts.
    #[command(flatten)]
    pub streams: StreamSettings,

    /// Which sites may use it from a browser.
    #[command(flatten)]
    pub browser: BrowserSettings,

    /// Where likes are published.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Where counts are read.
    #[command(flatten)]
    pub database: DatabaseSettings,

    /// How logs look.
    #[command(flatten)]
    pub log: LogSettings,

    /// How often the topic and its layout are looked at. No setting: only tests have a reason to
    /// be less patient.
    #[arg(skip = topic_check::INTERVAL)]
    pub topic_check_interval: Duration,

    /// For how long what is sent to a caller may wait for it to take a byte. No setting, for the
    /// same reason.
    #[arg(skip = Duration::from_secs(30))]
    pub stall_limit: Duration,
}

/// Where `/livez`, `/readyz` and `/metrics` are.
#[derive(Args, Debug, Clone)]
pub struct AdminSettings {
    /// address and port for probes and metrics, such as 127.0.0.1:8081; never the public one
    #[arg(long, env = "ADMIN_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    pub admin_addr: SocketAddr,
}

/// The command line: no subcommand serves.
#[derive(Debug)]
pub enum Cli {
    /// Serve until a signal.
    Serve(Box<Config>),
    /// Ask the running service whether it is ready.
    Healthcheck(AdminSettings),
}

/// Written out because `healthcheck` needs none of the required settings of serving, which a
/// derived optional group can't say as long as one of them is in the environment.
impl FromArgMatches for Cli {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((_, matches)) => AdminSettings::from_arg_matches(matches).map(Self::Healthcheck),
            None => Config::from_arg_matches(matches).map(|config| Self::Serve(Box::new(config))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl CommandFactory for Cli {
    fn command() -> Command {
        let healthcheck = AdminSettings::augment_args(Command::new("healthcheck"))
            .about("Exit status 0 if the service behind ADMIN_ADDR is ready: for a container's health check");
        Config::command().subcommand_negates_reqs(true).disable_help_subcommand(true).subcommand(healthcheck)
    }

    fn command_for_update() -> Command {
        Self::command()
    }
}

impl Parser for Cli {}
