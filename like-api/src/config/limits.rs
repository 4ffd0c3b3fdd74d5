//! Settings that say how much is taken, from one caller and from all together.

use clap::Args;

/// How much is taken.
#[derive(Args, Debug, Clone)]
pub struct LimitSettings {}
