//! docs/METRICS.md lists the metrics of both services with their types and labels, and no other metric.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::sources::sources;
use like_events::Reject;
use like_testkit::process::free_addr;
use like_testkit::{TestService, TestSystem, until};

const PAGE: &str = include_str!("../../../docs/METRICS.md");

/// Names in the code that begin like a metric's.
const SCHEMAS: [&str; 2] = ["likes_audit", "likes_rebuild"];

/// Name to type and labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The texts in backticks.
fn spans(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The rows below a heading.
fn listed(heading: &str) -> Metrics {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "name, type, labels, meaning, alert: {line}");
        assert!(cells[3].len() > 5 && !cells[4].is_empty(), "{line}");
        // Values are in parentheses.
        let labels = cells[2].split('(').map(|part| part.rsplit(')').next().unwrap()).flat_map(spans).collect();
        (spans(cells[0]).next().unwrap(), (cells[1].to_owned(), labels))
    };
    let rows: Vec<_> = rows.map(row).collect();
    let metrics: Metrics = rows.iter().cloned().collect();
    assert_eq!(metrics.len(), rows.len(), "{heading} lists a metric twice");
    metrics
}

/// The metrics of a service.
async fn exposed(service: &TestService) -> Metrics {
    let answer = service.http.get(format!("{}/metrics", service.admin)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let mut metrics = Metrics::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(help.len() > 5, "{name} has no text");
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let mut of = ["", "_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
            let name = of.find(|name| metrics.contains_key(*name)).expect(line);
            let labels = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            // No value of ours has a comma.
            let names = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
            metrics.get_mut(name).unwrap().1.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    metrics
}

#[track_caller]
fn assert_same(page: &Metrics, service: &Metrics) {
    for (name, found) in service {
        let line = page.get(name).unwrap_or_else(|| panic!("{name} is not in docs/METRICS.md: {found:?}"));
        assert_eq!(line, found, "{name}: the page is on the left");
    }
    for name in page.keys() {
        assert!(service.contains_key(name), "docs/METRICS.md lists {name}, which no service has");
    }
}

#[tokio::test]
async fn page_lists_all_metrics() {
    let (_topic, system) = TestSystem::with_topic(1).await;
    let (api, aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    assert_eq!(aggregator.series("likes_dead_letters_total", "").await, [0.0; Reject::CODES.len()]);
    let acknowledged = api.client().click("u1", "p1", true, "k1").await;
    api.client().wait_until_counted(&acknowledged.receipt).await;
    // A partition's metrics appear once the partition is owned.
    let name = "likes_consumer_lag_records";
    until(name, async || !aggregator.series(name, "").await.is_empty()).await;
    assert_eq!(aggregator.series("likes_held_partition", "\"0\"").await, [1.0]);
    assert_eq!(aggregator.metric("likes_dedup_window_seconds", "").await as u32, 48 * 3600);
    for service in [&api, &aggregator] {
        assert_eq!((service.metric("likes_ready", "").await, service.metric("likes_live", "").await), (1.0, 1.0));
    }

    // Some appear in one mode only. Without its keys like-api serves, but is not ready.
    let tokens = system.start_api(&[
        ("AUTH_MODE", "jwt"),
        ("JWT_JWKS_URL", &format!("http://{}", free_addr())),
        ("JWT_ALGORITHMS", "ES256"),
        ("JWT_ISSUER", "i"),
        ("JWT_AUDIENCE", "a"),
    ]);
    tokens.process.says("listening").await;
    let mut of_api = exposed(&tokens).await;
    of_api.extend(exposed(&api).await);

    let both = listed("Both services");
    for (heading, service) in [("like-api", of_api), ("like-aggregator", exposed(&aggregator).await)] {
        let mut page = listed(heading);
        page.extend(both.clone());
        assert_same(&page, &service);
    }
}

#[test]
fn page_lists_all_names_in_the_code() {
    let sources = sources();
    // Found by their prefixes; the page lists labels, too.
    let prefixes = ["likes_", "http_server_", "messaging_", "db_client_", "process_"];
    let is_name = |text: &&str| {
        prefixes.iter().any(|prefix| text.starts_with(prefix) && text.len() > prefix.len())
            && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let names: BTreeSet<_> = sources.split('"').filter(is_name).filter(|name| !SCHEMAS.contains(name)).collect();
    assert!(names.len() > 20, "{names:?}");
    let listed: BTreeSet<_> = spans(PAGE).collect();
    let missing: Vec<_> = names.iter().filter(|name| !listed.contains(**name)).collect();
    assert!(missing.is_empty(), "not in docs/METRICS.md: {missing:?}");
}
