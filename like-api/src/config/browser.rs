//! Settings that say which sites' pages may use the API.

use clap::Args;

/// Which sites may use it from a browser.
#[derive(Args, Debug, Clone)]
pub struct BrowserSettings {}
