//! More partitions by a new topic: topics are folded one after the other, and each to its end before the
//! next one, by every worker.

use crate::common::{DEDUP_WINDOW, NOON, RECORD_FOLD, drill, has_row, passing_crowd, store};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::fold::{Batch, Dedup, Record};
use like_testkit::{Click, Differences, TestDatabase, TestSystem, event, until};
use serde_json::{Value, json};

/// A topic that comes after the system's.
async fn next_topic(system: &mut TestSystem, partitions: i32) -> String {
    let first = system.topic.clone();
    let next = format!("{first}-next");
    let partitions = partitions.to_string();
    system.succeeds(&["setup", "--topic", &next, "--partitions", &partitions, "--after", &first]).await;
    next
}

async fn counts(system: &TestSystem) -> Vec<(String, i64)> {
    let sql = "SELECT product_id, like_count FROM product_like_count ORDER BY 1";
    system.database.rows(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn likes_move_to_more_partitions_in_order() {
    let system = TestSystem::set_up(3).await;
    let first = system.topic.clone();
    let second = format!("{first}-next");
    let own =
        [("like-update-topic-v1", &*first), ("like-update-topic-v2", &second), ("--partitions 64", "--partitions 8")];
    let commands = drill::commands("## Drill: more partitions, by a new topic", &own);
    let [setup, close, list] = &commands[..] else { panic!("{commands:?}") };

    let mut aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let mut old_api = system.api(&[]).await;
    system.succeeds(setup).await;
    let mut new_api = system.start_api(&[("KAFKA_TOPIC", &second)]);
    new_api.waits_for("topic_layout", "comes before").await;
    let refused = new_api.http.put(format!("{}/v1/products/p/like", new_api.url)).header("X-User-Id", "u").send();
    let refused = refused.await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));

    let crowd = passing_crowd(20, &[old_api.client(), new_api.client()]);
    crowd.clicks(500).await;
    // No producer writes to the first topic any more; users get 503.
    assert!(old_api.stop().await.0.success());
    system.succeeds(close).await;
    crowd.clicks(500).await;
    new_api.wait_until_ready().await;
    let mut record = crowd.finish().await;
    for sequence in ["1-", "2-"] {
        assert!(record.receipts.iter().any(|receipt| receipt.starts_with(sequence)), "none of topic {sequence}");
    }
    record.is_counted(&system, &new_api.client()).await;

    // Both continued with the next topic without a restart. KAFKA_TOPIC changes at the next one.
    for aggregator in &mut aggregators {
        aggregator.process.says("folded to its end").await;
        assert!(aggregator.stop().await.0.success());
    }
    let _restarted = system.aggregator(&[("KAFKA_TOPIC", &second)]).await;
    let liked = new_api.client().click("another", "p", true, "1").await;
    new_api.client().wait_until_counted(&liked.receipt).await;
    let (user, product) = ("another".to_owned(), "p".to_owned());
    record.note(Click { user, product, liked: true, acknowledged: liked });
    let of_first = record.receipts.iter().find(|receipt| receipt.starts_with("1-")).unwrap();
    assert_eq!(new_api.client().receipt(of_first).await["status"], "counted", "a receipt stays valid");

    // A replay folds the topics in the same order.
    let counts_before = counts(&system).await;
    system.succeeds(&["audit", "--log"]).await;
    system.succeeds(&["rebuild", "--yes"]).await;
    assert_eq!(counts(&system).await, counts_before);
    assert_eq!(record.compare_tables(&system).await, Differences::default());
    let list: Vec<_> = list.iter().map(String::as_str).collect();
    let (_, topics) = system.json(&list).await;
    let states: Vec<_> = topics["topics"].as_array().unwrap().iter().map(|t| (&t["topic"], &t["closed"])).collect();
    assert_eq!(states, [(&json!(first), &json!(true)), (&json!(second), &json!(false))]);
}

#[tokio::test]
async fn topic_with_lag_stays_open() {
    let (topic, mut system) = TestSystem::with_topic(2).await;
    let first = topic.name.clone();
    let close = ["topics", "close", &first, "--yes"];
    system.refused(&close, &["no topic comes after"]).await;
    system.refused(&["topics", "close", "another", "--yes"], &["topic_layout has no another"]).await;
    let second = next_topic(&mut system, 3).await;
    system.refused(&["topics", "close", &first], &["--yes"]).await;
    system.refused(&["topics", "close", &second, "--yes"], &[&format!("{first} comes before")]).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.publish_event(&event("p", Some("v"), true));
    topic.flush();
    system.refused(&close, &["2 records are left"]).await;
    system.refused(&[&close[..], &["--wait", "1s"]].concat(), &["--wait has passed"]).await;
    assert_eq!(system.number("SELECT count(*) FROM topic_layout WHERE end_offsets IS NOT NULL").await, 0);

    let _aggregator = system.aggregator(&[]).await;
    system.succeeds(&[&close[..], &["--wait", "30s"]].concat()).await;
    let ends = "SELECT (SELECT sum(o) FROM unnest(end_offsets) o)::bigint FROM topic_layout WHERE sequence = 1";
    assert_eq!(system.number(ends).await, 2);
    system.succeeds(&close).await; // again
    let settings = "SELECT count(*) FROM topic_layout WHERE state = 'closed' AND closing";
    assert_eq!(system.number(settings).await, 1);

    let table = system.succeeds(&["topics"]).await;
    for row in [["1", &first, "2", "closed"], ["2", &second, "3", "open"]] {
        assert!(has_row(&table, &row), "{table}");
    }
}

#[tokio::test]
async fn setup_appends_a_topic_on_request() {
    let mut system = TestSystem::new().await;
    let first = system.topic.clone();
    system.refused(&["setup", "--after", "other"], &["there is no topic yet"]).await;
    system.setup(&["--partitions", "1"]).await;
    let third = format!("{first}-3");
    system.refused(&["setup", "--topic", &third], &[&format!("--after {first}")]).await;
    let second = next_topic(&mut system, 1).await;
    system.refused(&["setup", "--topic", &third, "--after", &first], &[&format!("the last topic is {second}")]).await;
    system.refused(&["setup", "--after", &second], &["no other topic"]).await;
    // Repeated, it changes nothing.
    next_topic(&mut system, 1).await;
    system.setup(&[]).await;
    assert_eq!(system.number("SELECT count(*) FROM topic_layout").await, 2);
    assert_eq!(system.number("SELECT count(*) FROM kafka_offset WHERE next_offset = 0").await, 2);
}

#[tokio::test]
async fn record_past_the_end_is_reported() {
    let (topic, mut system) = TestSystem::with_topic(2).await;
    let second = next_topic(&mut system, 1).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.succeeds(&["topics", "close", &topic.name, "--yes", "--wait", "30s"]).await;
    drop(aggregator);
    // The broker takes nothing any more, whatever a producer believes.
    let ends = topic.end_offsets();
    topic.publish_event(&event("p", Some("fenced"), true));
    topic.flush();
    assert_eq!(topic.end_offsets(), ends);
    let settings = [("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "1000000")];
    topic.configure(&settings).await;
    until("an operator has lifted the fence", async || {
        topic.publish(Some(1), Some(b"q"), Some(&event("q", Some("late"), true).to_json()));
        topic.flush();
        topic.end_offsets() > ends
    })
    .await;
    for liked in [false, true] {
        topic.publish(Some(1), Some(b"q"), Some(&event("q", Some("late"), liked).to_json()));
    }
    topic.flush();

    let aggregator = system.aggregator(&[]).await;
    until("a metric says so", async || aggregator.metric("likes_records_behind_end", "").await as i64 == 3).await;
    aggregator.process.says("a producer still writes there").await;
    let (_, status) = system.json(&["status"]).await;
    let late = &status["behindEnds"];
    assert_eq!((late[0]["topic"].as_str(), late[0]["partition"].as_i64()), (Some(topic.name.as_str()), Some(1)));
    assert!(system.succeeds(&["status"]).await.contains("NOT COUNTED   3 records"));

    system.set("KAFKA_TOPIC", &second);
    let api = system.api(&[]).await;
    let receipt = api.client().click("u", "r", true, "1").await.receipt;
    api.client().wait_until_counted(&receipt).await;
    assert_eq!(counts(&system).await, [("p".to_owned(), 1), ("r".to_owned(), 1)]);
    system.succeeds(&["audit", "--log"]).await;
    system.succeeds(&["rebuild", "--yes"]).await;
    assert_eq!(counts(&system).await, [("p".to_owned(), 1), ("r".to_owned(), 1)]);

    let republish = ["topics", "republish", &topic.name, "--yes"];
    system.refused(&republish[..3], &["nothing was changed", "--yes"]).await;
    system.refused(&["topics", "republish", &second, "--yes"], &["not a closed topic"]).await;
    let republished = async || -> Value {
        let output = system.command(&[&["topics", "--json"], &republish[1..]].concat()).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    let done = republished().await;
    assert_eq!(
        (&done["events"], &done["overtaken"], &done["done"]),
        (&json!(1), &json!(2), &json!(true)),
        "the newest"
    );
    system.number_becomes("SELECT like_count FROM product_like_count WHERE product_id = 'q'", 1).await;
    assert_eq!(system.json(&["status"]).await.1["behindEnds"], json!([]));
    assert_eq!(republished().await["events"], 0);
}

/// The check of every batch, whatever active topic its worker assumes.
#[tokio::test]
async fn batch_of_inactive_topic_is_refused() {
    let database = TestDatabase::create().await;
    let fill = format!(
        "{RECORD_FOLD};
         INSERT INTO topic_layout VALUES (1, 'first', 2), (2, 'second', 1), (3, 'third', 1);
         INSERT INTO kafka_offset SELECT topic, p, 0, NULL, now() FROM topic_layout, generate_series(0, partitions - 1) p"
    );
    database.execute(fill).await;
    let apply = async |topic: &str, partition: i32, from: i64, records: i64| {
        let mut batch = Batch::default();
        for offset in from..from + records {
            let value = event("p", None, true).to_json();
            let record = Record { partition, offset, time: NOON, key: Some(b"p"), value: Some(&value) };
            batch.push(&record, from);
        }
        let mut store = store(&database, topic, Dedup::History(DEDUP_WINDOW));
        match store.apply(&batch).await {
            Ok(_) => true,
            Err(ApplyError::NotActive { .. }) => false,
            Err(error) => panic!("{topic}: {error}"),
        }
    };
    assert!(apply("first", 0, 0, 3).await);
    assert!(!apply("second", 0, 0, 1).await, "the first one is open");
    database.execute("UPDATE topic_layout SET end_offsets = '{4,1}' WHERE sequence = 1").await;
    assert!(!apply("second", 0, 0, 1).await, "the first one is closed, but not folded");
    assert!(!apply("first", 0, 3, 2).await, "beyond the end");
    assert!(apply("first", 0, 3, 1).await, "up to the end");
    assert!(!apply("second", 0, 0, 1).await, "one partition is not folded");
    assert!(apply("first", 1, 0, 1).await);
    assert!(apply("second", 0, 0, 1).await, "the active topic");
    assert!(!apply("third", 0, 0, 1).await, "the second one is open");
    database.execute("UPDATE kafka_offset SET next_offset = 0 WHERE topic = 'first' AND partition = 1").await;
    assert!(!apply("second", 0, 1, 1).await, "the first one is rewound, as by a restored backup");
}

/// Transactions leave markers after the last record: a lag that no consumer can reduce.
// Transactions block: not on the one thread of a plain runtime.
#[tokio::test(flavor = "multi_thread")]
async fn markers_of_transactions_keep_no_topic_open() {
    let (topic, mut system) = TestSystem::with_topic(1).await;
    next_topic(&mut system, 1).await;
    let transactions = topic.transactions();
    transactions.begin("p", &[event("p", Some("u"), true).to_json()]);

    let _aggregator = system.aggregator(&[]).await;
    system.refused(&["topics", "close", &topic.name, "--yes"], &["perhaps in a transaction"]).await;
    // The fence of `topics close` lets a marker pass.
    let fenced = [("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "100")];
    topic.configure(&fenced).await;
    transactions.commit();
    // The commit is answered before its markers are written.
    until("a record and its marker", async || topic.end_offsets() == [2]).await;
    system.succeeds(&["topics", "close", &topic.name, "--yes", "--wait", "30s"]).await;
    let (_, status) = system.json(&["status"]).await;
    assert_eq!(status["behindEnds"], json!([]), "a marker is no record");
    system.succeeds(&["audit", "--log"]).await;
}
