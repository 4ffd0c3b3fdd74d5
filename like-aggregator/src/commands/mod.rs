//! The commands of like-aggregator, one file or folder per command.

mod audit;
mod audit_log;
mod connection;
mod dead_letters;
mod erase_user;
mod gaps;
mod import;
mod offsets;
mod output;
mod publisher;
mod rebuild;
mod setup;
mod status;
mod topics;

pub use audit::audit;
pub use audit_log::audit_log;
pub use dead_letters::dead_letters;
pub use erase_user::erase_user;
pub use import::import;
pub use offsets::offsets;
pub use rebuild::rebuild;
pub use setup::setup;
pub use status::status;
pub use topics::topics;

/// The result of a command that did its work, as its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to report: 0.
    Clean,
    /// Something differs or was refused: 1.
    Differences,
}

impl Outcome {
    /// `Differences` if there are any.
    pub fn unless(differences: bool) -> Self {
        if differences { Self::Differences } else { Self::Clean }
    }
}

/// The error of a command without `--yes`: it names what the command would do.
fn not_done(what: &str) -> anyhow::Error {
    like_common::cli::UsageError(format!("nothing was changed: add --yes to {what}")).into()
}
