//! `offsets show | reset`: what a moved offset does to counts, gaps, dead letters and a running
//! aggregator.

use crate::common::{has_row, set_up};
use like_testkit::{TestSystem, TestTopic, event};
use serde_json::{Value, json};

/// Publishes likes of product p by users u<number> to partition 0. A record whose number ends with 9 is
/// no event.
fn publish(topic: &TestTopic, numbers: std::ops::Range<i64>) {
    for n in numbers {
        let value = event("p", Some(&format!("u{n}")), true).to_json();
        topic.publish(Some(0), Some(b"p"), Some(if n % 10 == 9 { b"no event" } else { &value }));
    }
    topic.flush();
}

async fn reset(system: &TestSystem, flags: &[&str]) -> Value {
    let (status, result) = system.json(&[&["offsets", "reset", "--yes"], flags].concat()).await;
    assert_eq!(status, 0, "{result}");
    result
}

const GAPS: &str = "SELECT coalesce(sum(from_offset * 1000 + to_offset), 0)::bigint FROM log_gap";

#[tokio::test]
async fn skipped_records_are_a_gap() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0..20);
    let shown = reset(&system, &["--partition", "0", "--to", "12"]).await;
    let partition = json!({"partition": 0, "before": 0, "after": 12, "logStart": 0, "logEnd": 20,
                           "skipped": 12, "foldedAgain": 0, "deadLettersRemoved": 0});
    assert_eq!(shown, json!({"topic": topic.name, "done": true, "partitions": [partition]}));
    let _aggregator = system.aggregator(&[]).await;
    system.folded(20).await;
    assert_eq!(system.likes().await, 7, "12 to 19, without the one that is no event");
    assert_eq!(system.number(GAPS).await, 12, "from 0, before 12");

    let (_, shown) = system.json(&["offsets", "show"]).await;
    assert_eq!((&shown["offsets"][0]["nextOffset"], &shown["offsets"][1]["nextOffset"]), (&json!(20), &json!(0)));
    assert_eq!((&shown["gaps"][0]["fromOffset"], &shown["gaps"][0]["toOffset"]), (&json!(0), &json!(12)));
    let table = system.succeeds(&["offsets", "show"]).await;
    assert!(table.lines().any(|line| line.split_whitespace().take(4).eq([&topic.name, "0", "0", "12"])), "{table}");
}

#[tokio::test]
async fn reset_while_running_counts_once() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..30);
    reset(&system, &["--partition", "0", "--to", "20"]).await;
    let aggregator = system.aggregator(&[]).await;
    system.folded(30).await;
    assert_eq!((system.likes().await, system.number(GAPS).await), (9, 20));

    // Of further letters only the offsets are kept.
    let ranges =
        "INSERT INTO dead_letter_range SELECT topic, 0, 0, 'not_json', '{[3,5),[20,28)}', now() FROM kafka_offset";
    system.database.execute(ranges).await;
    let shown = reset(&system, &["--partition", "0", "--to", "25"]).await;
    assert_eq!(shown["partitions"][0]["deadLettersRemoved"], 3 + 1, "25 to 27, and 29 with its payload");
    let shown = reset(&system, &["--all", "--to", "earliest"]).await;
    assert_eq!(shown["partitions"][0]["foldedAgain"], 25);
    assert_eq!(shown["partitions"][0]["deadLettersRemoved"], 2 + 5);
    assert_eq!(system.number(GAPS).await, 0, "what will be folded is no gap");
    let letters = "SELECT (SELECT count(*) FROM dead_letter) + (SELECT count(*) FROM dead_letter_range)";
    assert_eq!(system.number(letters).await, 0);
    assert_eq!(system.number("SELECT count(last_record_time) FROM kafka_offset").await, 0, "no record to verify");
    // Its next batch starts at 30 and is fenced.
    publish(&topic, 30..31);
    system.folded(31).await;
    assert_eq!(system.likes().await, 31 - 3);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 3);
    assert_eq!(aggregator.metric("likes_fences_total", "").await as u32, 1);
    assert_eq!(aggregator.metric("likes_events_total", r#"outcome="duplicate""#).await as u32, 9);
    assert_eq!(system.wrong_counts().await, 0);

    // Part of a gap.
    reset(&system, &["--partition", "0", "--to", "earliest"]).await;
    reset(&system, &["--partition", "0", "--to", "20"]).await;
    reset(&system, &["--partition", "0", "--to", "15"]).await;
    assert_eq!(system.number(GAPS).await, 15);
}

#[tokio::test]
async fn reset_past_history_doubles_deltas() {
    let (topic, system) = set_up(1).await;
    for user in [Some("u1"), Some("u2"), None] {
        topic.publish_event(&event("p", user, true));
    }
    topic.flush();
    let mut aggregator = system.aggregator(&[]).await;
    system.folded(3).await;
    aggregator.stop().await;
    system.database.execute("DELETE FROM event_handled").await;
    let printed = system.succeeds(&["offsets", "reset", "--all", "--to", "earliest", "--yes"]).await;
    assert!(printed.contains("a delta event counts twice") && printed.contains("`rebuild`"), "{printed}");
    let _aggregator = system.aggregator(&[]).await;
    system.folded(3).await;
    assert_eq!(system.likes().await, 4, "two likers still, and the delta event twice");
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn reset_without_yes_changes_nothing() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..5);
    let args = ["offsets", "reset", "--all", "--to", "latest"];
    let printed = system.refused(&args, &["nothing was changed", "--yes"]).await;
    assert!(has_row(&printed, &["0", "0", "5", "0", "5", "5", "0", "0"]), "{printed}");
    assert!(printed.contains("never counted"), "{printed}");
    assert_eq!(system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await, 0);
}

#[tokio::test]
async fn invalid_reset_is_refused() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0..5);
    let refused = async |flags: &[&str], texts: &[&str]| {
        system.refused(&[&["offsets", "reset", "--yes"], flags].concat(), texts).await;
    };
    refused(&["--to", "latest"], &["--partition", "is not set"]).await;
    refused(&["--all"], &["--to", "is not set", "earliest"]).await;
    refused(&["--all", "--to", "soon"], &["--to", "'soon'", "earliest, latest or an offset"]).await;
    refused(&["--all", "--to", "3"], &["--partition"]).await;
    refused(&["--all", "--partition", "0", "--to", "latest"], &["--all", "--partition"]).await;
    refused(&["--partition", "2", "--to", "latest"], &["--partition", "the database has 0-1"]).await;
    refused(&["--partition", "0", "--to", "6"], &["--to can't be 6", "from 0 to 5"]).await;
    system.database.execute("UPDATE topic_layout SET end_offsets = '{5,0}'").await;
    refused(&["--all", "--to", "latest"], &["is closed"]).await;
    let second = "UPDATE topic_layout SET end_offsets = NULL, sequence = 2;
                  INSERT INTO topic_layout (sequence, topic, partitions) VALUES (1, 'before', 1)";
    system.database.execute(second).await;
    refused(&["--all", "--to", "latest"], &["before, which has to be closed first"]).await;
    assert_eq!(system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await, 0);
    assert_eq!(system.number(GAPS).await, 0);
}

#[tokio::test]
async fn reset_inserts_a_missing_row() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..5);
    system.database.execute("DELETE FROM kafka_offset").await;
    let shown = reset(&system, &["--partition", "0", "--to", "2"]).await;
    assert_eq!((&shown["partitions"][0]["before"], &shown["partitions"][0]["skipped"]), (&json!(null), &json!(0)));
    let _aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    assert_eq!((system.likes().await, system.number(GAPS).await), (3, 0));
}

#[tokio::test]
async fn offset_past_the_end_of_a_recreated_log_is_reset() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..5);
    let earlier = "UPDATE kafka_offset SET next_offset = 500, last_record_time = now()";
    system.database.execute(earlier).await;
    let printed = system.succeeds(&["offsets", "reset", "--all", "--to", "earliest", "--yes"]).await;
    assert!(has_row(&printed, &["0", "500", "0", "0", "5", "0", "5", "0"]), "{printed}");
    assert!(printed.contains("was cut or created again"), "{printed}");
    let _aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    assert_eq!((system.likes().await, system.number(GAPS).await), (5, 0));
}
