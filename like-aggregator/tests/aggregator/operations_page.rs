//! docs/OPERATIONS.md names metrics, conditions, reasons and log lines that exist in the code, and
//! every metric of the code. Its commands, and those of docs/COMMANDS.md, parse.

use std::collections::BTreeSet;

use crate::common::drill::section;
use crate::common::sources::sources;
use clap::Parser;
use clap::error::ErrorKind;
use like_aggregator::cli::Cli;

const PAGE: &str = include_str!("../../../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../../../deploy/monitoring/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../../deploy/monitoring/alerts.test.yml");
const COMMANDS_PAGE: &str = include_str!("../../../docs/COMMANDS.md");

/// Beginnings of commands.
const COMMANDS: [&str; 6] = ["curl ", "kafka-", "kill ", "ulimit ", "SELECT ", "like-aggregator "];

/// Names that belong to others.
const FOREIGN: [&str; 8] =
    ["HOST:8081", "HOST:8082", "work_mem", "max_connections", "retention.ms", "process_…", "make lint", "runbook_url"];

/// The texts in backticks outside of blocks.
fn spans(text: &str) -> Vec<String> {
    let outside = text.split("\n```").step_by(2).flat_map(str::lines);
    let prose = outside.filter(|line| !line.starts_with("    ")).collect::<Vec<_>>().join(" ");
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn names_on_the_page_are_in_the_code() {
    let sources = sources();
    let mut named = 0;
    for span in spans(section("## Something is wrong: start here")) {
        if FOREIGN.contains(&&*span) || COMMANDS.iter().any(|command| span.starts_with(command)) {
            continue;
        }
        let parts = span
            .split(['…', '{', '}', '=', '"'])
            .map(|part| part.trim_matches([' ', ':', ';']))
            .filter(|part| !part.is_empty());
        for part in parts {
            assert!(sources.contains(part), "`{span}`: the code doesn't contain '{part}'");
            named += 1;
        }
    }
    assert!(named > 100, "the page has tables: {named}");
}

#[test]
fn page_has_every_metric() {
    let metrics = [include_str!("../../src/metrics.rs"), include_str!("../../../like-api/src/metrics.rs")];
    let names = metrics.iter().flat_map(|source| source.split('"').skip(1).step_by(2));
    let is_metric = |name: &&str| {
        let prefixes = ["likes_", "messaging_", "http_server_"];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
            && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
            // Labels, and not metrics.
            && !["messaging_system", "messaging_operation_name"].contains(name)
    };
    let names: BTreeSet<_> = names.filter(is_metric).collect();
    assert!(names.len() > 15, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !PAGE.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

/// The page's anchors, as GitHub makes them from headings.
fn anchors() -> BTreeSet<String> {
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let headings = PAGE.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#').trim())).collect()
}

#[test]
fn page_and_rules_have_the_same_alerts() {
    let values = |text: &'static str, name: &str| -> Vec<&str> {
        text.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(name)).collect()
    };
    let rules = values(ALERTS, "alert: ");
    let rows: BTreeSet<_> = PAGE.lines().filter_map(|line| line.strip_prefix("| Likes")).collect();
    let rows: BTreeSet<_> = rows.iter().map(|row| format!("Likes{}", row.split(' ').next().unwrap())).collect();
    assert!(rows.len() > 30, "{rows:?}");
    assert_eq!(rows, rules.iter().map(|name| (*name).to_owned()).collect(), "the page is on the left");
    for name in &rules {
        assert!(ALERT_TESTS.contains(&format!("- name: {name}\n")), "alerts.test.yml has no test of {name}");
    }

    let runbooks = values(ALERTS, "runbook_url: docs/OPERATIONS.md#");
    assert_eq!(runbooks.len(), rules.len(), "each rule links to this page");
    for runbook in runbooks {
        assert!(anchors().contains(runbook), "#{runbook} is not one of {:?}", anchors());
    }
}

#[test]
fn links_within_the_page_resolve() {
    let anchors = anchors();
    for link in PAGE.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(anchors.contains(link), "#{link} is not one of {anchors:?}");
    }
}

#[test]
fn commands_on_both_pages_parse() {
    let pages = [PAGE, COMMANDS_PAGE];
    let in_blocks =
        pages.iter().flat_map(|page| page.lines()).map(|line| line.trim_start_matches(['$', ' ']).to_owned());
    let commands =
        in_blocks.chain(pages.iter().flat_map(|page| spans(page))).filter(|text| text.starts_with("like-aggregator "));
    let commands: BTreeSet<_> = commands.collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let command = command.split(" #").next().unwrap();
        // Placeholders are written in capitals.
        let words = command.split_whitespace().map(|word| if word == "N" || word == "OFFSET" { "1" } else { word });
        match Cli::try_parse_from(words) {
            Ok(_) => {}
            // Where Kafka and PostgreSQL are is in the environment.
            Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {}
            Err(error) => panic!("{command}: {error}"),
        }
    }
}
