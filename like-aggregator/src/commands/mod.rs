//! What like-aggregator can be told to do: one file per command.

mod audit;
mod audit_log;
mod dead_letters;
mod erase_user;
mod import;
mod offsets;
mod output;
mod publish;
mod rebuild;
mod setup;
mod status;
mod tables;
mod topics;

pub use audit::audit;
pub use audit_log::audit_log;
pub use dead_letters::dead_letters;
pub use erase_user::erase_user;
pub use import::import;
pub use offsets::offsets;
pub use rebuild::rebuild;
pub(crate) use setup::migrate;
pub use setup::setup;
pub use status::status;
pub use topics::topics;

/// What a command that could do its work has to say to a script, as its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it should be: 0.
    Clean,
    /// Something is not: 1.
    Differences,
}

impl Outcome {
    /// Differences, if there are any.
    pub fn unless(differences: bool) -> Self {
        if differences { Self::Differences } else { Self::Clean }
    }
}

/// For a command that was not told `--yes`: what it would have done, and that it hasn't.
fn not_done(what: &str) -> anyhow::Error {
    like_common::cli::UsageError(format!("nothing was changed: add --yes to {what}")).into()
}
