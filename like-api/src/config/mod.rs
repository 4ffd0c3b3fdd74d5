//! The settings and the command line of `like-api`. Settings of Kafka, PostgreSQL and logs are in
//! like-common. What the contract fixes is a constant, not a setting.

mod auth;
mod browser;
mod jwt;
mod limits;
mod site;
mod stream;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser};
use like_common::cli::duration_between;
use like_common::database::{DatabaseSettings, DatabaseUrl};
use like_common::kafka::KafkaSettings;
use like_common::telemetry::LogSettings;
use like_common::topic_check;

pub use self::auth::{AuthMode, AuthSettings};
pub use self::browser::{AllowedOrigin, BrowserSettings};
pub use self::jwt::{JwksTiming, JwtAlgorithm, JwtSettings};
pub use self::limits::{LimitSettings, ProxyHeader, REFUSALS_MAX};
pub use self::site::SiteSettings;
pub use self::stream::StreamSettings;

/// Accepts likes over HTTP and publishes them to Kafka; serves counts from PostgreSQL.
#[derive(Parser, Debug, Clone)]
#[command(name = "like-api", version)]
pub struct Config {
    /// address and port for callers, such as 127.0.0.1:8080
    #[arg(long, env = "LISTEN_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub listen_addr: SocketAddr,

    #[command(flatten)]
    pub admin: AdminSettings,

    /// how long to keep serving after SIGTERM while /readyz is 503, so that load balancers stop sending:
    /// 0s to 5m
    #[arg(long, env = "SHUTDOWN_DELAY", value_name = "DURATION", default_value = "0s", value_parser = shutdown_delay)]
    pub shutdown_delay: Duration,

    #[command(flatten)]
    pub auth: AuthSettings,

    #[command(flatten)]
    pub limits: LimitSettings,

    #[command(flatten)]
    pub streams: StreamSettings,

    #[command(flatten)]
    pub browser: BrowserSettings,

    #[command(flatten)]
    pub site: SiteSettings,

    #[command(flatten)]
    pub kafka: KafkaSettings,

    #[command(flatten)]
    pub database: DatabaseSettings,

    /// the other databases, when several share the topic by partitions: URLs with spaces between them
    #[arg(long = "other-database-urls", env = "OTHER_DATABASE_URLS", value_name = "URLS", hide_env_values = true)]
    #[arg(value_parser = OtherDatabases::from_str)]
    pub other_databases: Option<OtherDatabases>,

    #[command(flatten)]
    pub log: LogSettings,

    /// How often the topic and its layout are checked. Only tests change it.
    #[arg(skip = topic_check::INTERVAL)]
    pub topic_check_interval: Duration,

    /// How long a write to a client may make no progress. Only tests change it.
    #[arg(skip = Duration::from_secs(30))]
    pub write_timeout: Duration,
}

/// The databases beside the one of `DATABASE_URL`.
#[derive(Debug, Clone)]
pub struct OtherDatabases(pub Vec<DatabaseUrl>);

impl FromStr for OtherDatabases {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = |(number, url): (usize, &str)| url.parse().map_err(|error| format!("URL {number}: {error}"));
        (1..).zip(text.split_whitespace()).map(url).collect::<Result<_, _>>().map(Self)
    }
}

impl Config {
    /// Returns the URL for examples: the public one, or the listener's.
    pub fn example_url(&self) -> String {
        let mut listener = self.listen_addr;
        if listener.ip().is_unspecified() {
            listener.set_ip([127, 0, 0, 1].into());
        }
        self.site.public_url.clone().unwrap_or_else(|| format!("http://{listener}"))
    }

    /// The error says in one line which limit is refused, or why the demo is.
    pub fn check(&self) -> Result<(), String> {
        self.site.check_demo(self.auth.auth_mode)?;
        self.streams.max_streams(self.limits.max_connections()?).map(drop)
    }
}

/// The port of `/livez`, `/readyz` and `/metrics`.
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
    /// Exit status 0 if the running service is alive, or ready.
    Healthcheck(HealthcheckSettings),
}

/// The settings of `healthcheck`.
#[derive(Args, Debug)]
pub struct HealthcheckSettings {
    #[command(flatten)]
    pub admin: AdminSettings,

    /// ask /readyz instead of /livez
    #[arg(long)]
    pub ready: bool,
}

/// Not derived: `healthcheck` needs none of the settings that are required for serving, which a
/// derived optional group can't express while one of them is in the environment.
impl FromArgMatches for Cli {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((_, matches)) => HealthcheckSettings::from_arg_matches(matches).map(Self::Healthcheck),
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
        let healthcheck = HealthcheckSettings::augment_args(Command::new("healthcheck"))
            .about("Exit status 0 if the service behind ADMIN_ADDR is alive: for a container's health check");
        Config::command().subcommand_negates_reqs(true).disable_help_subcommand(true).subcommand(healthcheck)
    }

    fn command_for_update() -> Command {
        Self::command()
    }
}

impl Parser for Cli {}

fn shutdown_delay(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::ZERO, Duration::from_mins(5))
}
