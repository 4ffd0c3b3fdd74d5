//! docs/CONFIGURATION.md lists every setting of like-aggregator with its default, every flag of
//! `setup`, and no other.

use clap::{Command, CommandFactory};
use like_aggregator::cli::Cli;
use like_testkit::configuration_page::{Setting, assert_lists};

/// Settings of a command and its subcommands. Flags without a variable belong to one command: the
/// page has those of `setup`.
fn settings(command: &Command) -> Vec<(String, Setting)> {
    let own = command.get_arguments().filter_map(|arg| {
        let default = arg.get_default_values().first().map(|value| value.to_str().unwrap().to_owned());
        let (required, secret) = (arg.is_required_set(), arg.is_hide_env_values_set());
        let name = match (arg.get_env(), arg.get_long()) {
            (Some(env), _) => env.to_str()?.to_owned(),
            (None, Some(long)) if command.get_name() == "setup" => format!("--{long}"),
            _ => return None,
        };
        Some((name, Setting { required, default, secret }))
    });
    own.chain(command.get_subcommands().flat_map(settings)).collect()
}

#[test]
fn page_lists_every_setting() {
    assert_lists("like-aggregator", &settings(&Cli::command()).into_iter().collect());
}
