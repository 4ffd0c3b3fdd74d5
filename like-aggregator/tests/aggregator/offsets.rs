//! `offsets show | reset`: what moving an offset does to counts, gaps, receipts and to an
//! aggregator that runs meanwhile.

use std::process::Output;

use like_testkit::{TestDatabase, TestSystem, TestTopic, event};
use serde_json::{Value, json};

async fn set_up(partitions: i32) -> (TestTopic, TestSystem) {
    let topic = TestTopic::create(partitions).await;
    let system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", &partitions.to_string()]).await;
    (topic, system)
}

/// Users u{from} to u{to-1} like product p, each in a record of partition 0; every record of a
/// number that ends with 9 is no event.
fn publish(topic: &TestTopic, numbers: std::ops::Range<i64>) {
    for n in numbers {
        let value = event("p", Some(&format!("u{n}")), true).to_json();
        topic.publish(Some(0), Some(b"p"), Some(if n % 10 == 9 { b"no event" } else { &value }));
    }
    topic.flush();
}

async fn reset(system: &TestSystem, flags: &[&str]) -> Value {
    let output = system.command(&[&["offsets", "reset", "--json", "--yes"], flags].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, texts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{texts:?}: {error}");
    assert!(texts.iter().all(|text| error.contains(text)), "{texts:?}: {error}");
}

const LIKERS: &str = "SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count";
const GAPS: &str = "SELECT coalesce(sum(from_offset * 1000 + to_offset), 0)::bigint FROM log_gap";

#[tokio::test]
async fn what_is_skipped_is_not_counted_and_noted_as_a_gap() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0..20);
    let shown = reset(&system, &["--partition", "0", "--to", "12"]).await;
    let partition = json!({"partition": 0, "before": 0, "after": 12, "logStart": 0, "logEnd": 20,
                           "skipped": 12, "foldedAgain": 0, "deadLettersRemoved": 0});
    assert_eq!(shown, json!({"topic": topic.name, "done": true, "partitions": [partition]}));
    let _aggregator = system.aggregator(&[]).await;
    system.folded(20).await;
    assert_eq!(system.number(LIKERS).await, 7, "12 to 19, without the one that is no event");
    assert_eq!(system.number(GAPS).await, 12, "from 0, before 12");

    let output = system.command(&["offsets", "show", "--json"]).await;
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["offsets"][0]["nextOffset"], &shown["offsets"][1]["nextOffset"]), (&json!(20), &json!(0)));
    assert_eq!((&shown["gaps"][0]["fromOffset"], &shown["gaps"][0]["toOffset"]), (&json!(0), &json!(12)));
    let table = String::from_utf8(system.command(&["offsets", "show"]).await.stdout).unwrap();
    assert!(table.lines().any(|line| line.split_whitespace().take(4).eq([&topic.name, "0", "0", "12"])), "{table}");
}

#[tokio::test]
async fn going_back_under_a_running_aggregator_counts_what_was_skipped_and_drops_what_is_remembered() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..30);
    reset(&system, &["--partition", "0", "--to", "20"]).await;
    let aggregator = system.aggregator(&[]).await;
    system.folded(30).await;
    assert_eq!((system.number(LIKERS).await, system.number(GAPS).await), (9, 20));

    let shown = reset(&system, &["--all", "--to", "earliest"]).await;
    assert_eq!(shown["partitions"][0]["foldedAgain"], 30);
    assert_eq!(shown["partitions"][0]["deadLettersRemoved"], 1);
    assert_eq!(system.number(GAPS).await, 0, "what will be folded is not lost");
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 0);
    assert_eq!(system.number("SELECT count(last_record_time) FROM kafka_offset").await, 0, "nothing to compare with");
    // It believes to stand at 30 and is told better at its next batch.
    publish(&topic, 30..31);
    system.folded(31).await;
    assert_eq!(system.number(LIKERS).await, 31 - 3);
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
async fn going_back_behind_what_is_remembered_doubles_delta_events_and_says_so() {
    let (topic, system) = set_up(1).await;
    for user in [Some("u1"), Some("u2"), None] {
        topic.publish_event(&event("p", user, true));
    }
    topic.flush();
    let mut aggregator = system.aggregator(&[]).await;
    system.folded(3).await;
    aggregator.stop().await;
    sqlx::query("DELETE FROM event_handled").execute(&system.database.pool).await.unwrap();
    let output = system.command(&["offsets", "reset", "--all", "--to", "earliest", "--yes"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("a delta event counts twice") && said.contains("`rebuild`"), "{said}");
    let _aggregator = system.aggregator(&[]).await;
    system.folded(3).await;
    assert_eq!(system.number(LIKERS).await, 4, "two likers still, and the delta event twice");
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn without_yes_it_only_says_what_it_would_do() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..5);
    let output = system.command(&["offsets", "reset", "--all", "--to", "latest"]).await;
    assert_refused(&output, &["nothing was changed", "--yes"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let row = ["0", "0", "5", "0", "5", "5", "0", "0"];
    assert!(table.lines().any(|line| line.split_whitespace().eq(row)), "{table}");
    assert!(table.contains("never counted"), "{table}");
    assert_eq!(system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await, 0);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let (topic, system) = set_up(2).await;
    publish(&topic, 0..5);
    let reset = async |flags: &[&str]| system.command(&[&["offsets", "reset", "--yes"], flags].concat()).await;
    assert_refused(&reset(&["--to", "latest"]).await, &["--partition", "is not set"]);
    assert_refused(&reset(&["--all"]).await, &["--to", "is not set", "earliest"]);
    assert_refused(&reset(&["--all", "--to", "soon"]).await, &["--to", "'soon'", "earliest, latest or an offset"]);
    assert_refused(&reset(&["--all", "--to", "3"]).await, &["--partition"]);
    assert_refused(&reset(&["--all", "--partition", "0", "--to", "latest"]).await, &["--all", "--partition"]);
    assert_refused(&reset(&["--partition", "2", "--to", "latest"]).await, &["--partition", "0 to 1"]);
    assert_refused(&reset(&["--partition", "0", "--to", "6"]).await, &["--to can't be 6", "from 0 to 5"]);
    let close = "UPDATE topic_layout SET end_offsets = '{5,0}'";
    sqlx::query(close).execute(&system.database.pool).await.unwrap();
    assert_refused(&reset(&["--all", "--to", "latest"]).await, &["is closed"]);
    for sql in [
        "UPDATE topic_layout SET end_offsets = NULL, sequence = 2",
        "INSERT INTO topic_layout (sequence, topic, partitions) VALUES (1, 'before', 1)",
    ] {
        sqlx::query(sql).execute(&system.database.pool).await.unwrap();
    }
    assert_refused(&reset(&["--all", "--to", "latest"]).await, &["before, which has to be closed first"]);
    assert_eq!(system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await, 0);
    assert_eq!(system.number(GAPS).await, 0);
}

#[tokio::test]
async fn a_missing_row_is_made_where_it_is_said_to_be() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..5);
    sqlx::query("DELETE FROM kafka_offset").execute(&system.database.pool).await.unwrap();
    let shown = reset(&system, &["--partition", "0", "--to", "2"]).await;
    assert_eq!((&shown["partitions"][0]["before"], &shown["partitions"][0]["skipped"]), (&json!(null), &json!(0)));
    let _aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    assert_eq!((system.number(LIKERS).await, system.number(GAPS).await), (3, 0));
}

#[tokio::test]
async fn offset_past_the_end_of_a_recreated_log_is_reset() {
    let (topic, system) = set_up(1).await;
    publish(&topic, 0..5);
    let earlier = "UPDATE kafka_offset SET next_offset = 500, last_record_time = now()";
    sqlx::query(earlier).execute(&system.database.pool).await.unwrap();
    let output = system.command(&["offsets", "reset", "--all", "--to", "earliest", "--yes"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let row = ["0", "500", "0", "0", "5", "0", "5", "0"];
    assert!(said.lines().any(|line| line.split_whitespace().eq(row)), "{said}");
    assert!(said.contains("was cut or created again"), "{said}");
    let _aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    assert_eq!((system.number(LIKERS).await, system.number(GAPS).await), (5, 0));
}
