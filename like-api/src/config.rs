//! What can be set, and the command line: flags and environment of `like-api` itself. What the
//! contract fixes is no setting; Kafka's, PostgreSQL's and the logs' are like-service's.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::HeaderName;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};
use like_service::database::DatabaseSettings;
use like_service::kafka::KafkaSettings;
use like_service::telemetry::LogSettings;
use like_service::topic_check;

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
}

/// Where `/livez`, `/readyz` and `/metrics` are.
#[derive(Args, Debug, Clone)]
pub struct AdminSettings {
    /// address and port for probes and metrics, such as 127.0.0.1:8081; never the public one
    #[arg(long, env = "ADMIN_ADDR", value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    pub admin_addr: SocketAddr,
}

/// How the caller is known.
#[derive(Args, Debug, Clone)]
pub struct AuthSettings {
    /// who says which user is calling; there is no default, since a wrong one would let everybody
    /// like in everybody's name
    #[arg(long, env = "AUTH_MODE", value_enum, value_name = "MODE")]
    pub auth_mode: AuthMode,

    /// the header that names the user where the mode is trusted-header
    #[arg(long, env = "AUTH_USER_HEADER", value_name = "NAME", default_value = "X-User-Id", value_parser = header_name)]
    pub auth_user_header: String,

    /// true: take that header from other machines too; only where none but a gateway that sets the
    /// header itself can reach the listener
    #[arg(
        long,
        env = "AUTH_HEADER_ALLOW_PUBLIC",
        value_name = "BOOL",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub auth_header_allow_public: bool,
}

/// One value for each variant of [`crate::auth::Auth`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// A gateway in front has checked who is calling, and says so in a header.
    TrustedHeader,
}

fn header_name(text: &str) -> Result<String, String> {
    // Kept as written: HTTP compares names without case, people read them with it.
    HeaderName::try_from(text).map(|_| text.to_owned()).map_err(|_| "that is no header name".to_owned())
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
