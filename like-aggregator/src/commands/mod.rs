//! What like-aggregator can be told to do: one file per command.

mod rebuild;
mod run;
mod setup;
mod status;

pub use rebuild::rebuild;
pub use run::run;
pub(crate) use setup::migrate;
pub use setup::setup;
pub use status::status;
