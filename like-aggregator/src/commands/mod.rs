//! What like-aggregator can be told to do: one file per command.

mod run;
mod setup;
mod status;

pub use run::run;
pub use setup::setup;
pub use status::status;
