//! docs/CONFIGURATION.md lists every setting of like-api with its default, and no other.

use clap::CommandFactory;
use like_api::config::Cli;
use like_testkit::configuration_page::{Setting, assert_lists};

#[test]
fn page_lists_every_setting() {
    let command = Cli::command();
    let settings = command.get_arguments().filter_map(|arg| {
        let default = arg.get_default_values().first().map(|value| value.to_str().unwrap().to_owned());
        let (required, secret) = (arg.is_required_set(), arg.is_hide_env_values_set());
        Some((arg.get_env()?.to_str()?.to_owned(), Setting { required, default, secret }))
    });
    assert_lists("like-api", &settings.collect());
}
