//! Settings of the commands that look, move and repair.

use clap::Args;
use like_service::database::DatabaseSettings;

/// Settings of `audit`.
#[derive(Args, Debug, Clone)]
pub struct AuditSettings {
    /// Where `PostgreSQL` is.
    #[command(flatten)]
    pub database: DatabaseSettings,

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
