//! More partitions by a new topic: topics are folded one after the other, the whole of one before
//! the next, whoever folds and whenever it notices.

use std::process::Output;
use std::str::FromStr;
use std::time::Duration;

use crate::common::{drill, passing_crowd};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::apply::transaction::Store;
use like_aggregator::fold::{Batch, Dedup, FOLD_VERSION, Record};
use like_common::database::{DatabaseUrl, SCHEMA};
use like_testkit::{Click, Differences, TestDatabase, TestSystem, TestTopic, event, eventually};
use serde_json::{Value, json};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn refused(system: &TestSystem, args: &[&str], why: &str) {
    let output = system.command(args).await;
    assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    assert!(said(&output).contains(why), "{args:?}: {}", said(&output));
}

async fn done(system: &TestSystem, args: &[&str]) -> Output {
    let output = system.command(args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    output
}

/// A topic that comes after the system's.
async fn next_topic(system: &mut TestSystem, partitions: i32) -> String {
    let first = system.topic.clone();
    let next = format!("{first}-next");
    let partitions = partitions.to_string();
    done(system, &["setup", "--topic", &next, "--partitions", &partitions, "--after", &first]).await;
    next
}

async fn counts(system: &TestSystem) -> Vec<(String, i64)> {
    let sql = "SELECT product_id, like_count FROM product_like_count ORDER BY 1";
    sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn likes_move_to_more_partitions_in_order() {
    let system = TestSystem::set_up(3).await;
    let first = system.topic.clone();
    let second = format!("{first}-next");
    let own =
        [("like-update-topic-v1", &*first), ("like-update-topic-v2", &second), ("--partitions 64", "--partitions 8")];
    let commands = drill::commands("## Drill: more partitions, by a new topic", &own);
    let commands: Vec<Vec<_>> = commands.iter().map(|words| words.iter().map(String::as_str).collect()).collect();
    let [setup, close, list] = &commands[..] else { panic!("{commands:?}") };

    let mut aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let mut old_api = system.api(&[]).await;
    done(&system, setup).await;
    let mut new_api = system.start_api(&[("KAFKA_TOPIC", &second)]);
    new_api.waits_for("topic_layout", "comes before").await;
    let refused = new_api.http.put(format!("{}/v1/products/p/like", new_api.url)).header("X-User-Id", "u").send();
    let refused = refused.await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));

    let crowd = passing_crowd(20, &[old_api.client(), new_api.client()]);
    crowd.clicks(500).await;
    // No producer writes to the first topic any more; users are told to come again.
    assert!(old_api.stop().await.0.success());
    done(&system, close).await;
    crowd.clicks(500).await;
    new_api.wait_until_ready().await;
    let mut record = crowd.finish().await;
    for sequence in ["1-", "2-"] {
        assert!(record.receipts.iter().any(|receipt| receipt.starts_with(sequence)), "none of topic {sequence}");
    }
    record.is_counted(&system, &new_api.client()).await;

    // At their next restart. Both have gone on to the next topic without one.
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

    // A replay takes them in the same order.
    let counts_before = counts(&system).await;
    done(&system, &["audit", "--log"]).await;
    done(&system, &["rebuild", "--yes"]).await;
    assert_eq!(counts(&system).await, counts_before);
    assert_eq!(record.compare_tables(&system).await, Differences::default());
    let topics: Value = serde_json::from_slice(&done(&system, &[list, &["--json"][..]].concat()).await.stdout).unwrap();
    let states: Vec<_> = topics.as_array().unwrap().iter().map(|t| (&t["topic"], &t["closed"])).collect();
    assert_eq!(states, [(&json!(first), &json!(true)), (&json!(second), &json!(false))]);
}

#[tokio::test]
async fn a_topic_is_closed_only_when_that_loses_nothing() {
    let (topic, mut system) = TestSystem::with_topic(2).await;
    let first = topic.name.clone();
    let close = ["topics", "close", &first, "--yes"];
    refused(&system, &close, "no topic comes after").await;
    refused(&system, &["topics", "close", "another", "--yes"], "topic_layout has no another").await;
    let second = next_topic(&mut system, 3).await;
    refused(&system, &["topics", "close", &first], "--yes").await;
    refused(&system, &["topics", "close", &second, "--yes"], &format!("{first} comes before")).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.publish_event(&event("p", Some("v"), true));
    topic.flush();
    refused(&system, &close, "2 records are left").await;
    refused(&system, &[&close[..], &["--wait", "1s"]].concat(), "--wait has passed").await;
    assert_eq!(system.number("SELECT count(*) FROM topic_layout WHERE end_offsets IS NOT NULL").await, 0);

    let _aggregator = system.aggregator(&[]).await;
    done(&system, &[&close[..], &["--wait", "30s"]].concat()).await;
    let ends = "SELECT (SELECT sum(o) FROM unnest(end_offsets) o)::bigint FROM topic_layout WHERE sequence = 1";
    assert_eq!(system.number(ends).await, 2);
    done(&system, &close).await; // again

    let table = said(&done(&system, &["topics"]).await);
    let line = |cells: [&str; 4]| table.lines().any(|line| line.split_whitespace().eq(cells));
    assert!(line(["1", &first, "2", "closed"]) && line(["2", &second, "3", "open"]), "{table}");
}

#[tokio::test]
async fn setup_adds_a_topic_only_at_the_end_and_only_when_told() {
    let mut system = TestSystem::new().await;
    let first = system.topic.clone();
    refused(&system, &["setup", "--after", "other"], "there is no topic yet").await;
    system.setup(&["--partitions", "1"]).await;
    let third = format!("{first}-3");
    refused(&system, &["setup", "--topic", &third], &format!("--after {first}")).await;
    let second = next_topic(&mut system, 1).await;
    refused(&system, &["setup", "--topic", &third, "--after", &first], &format!("the last topic is {second}")).await;
    refused(&system, &["setup", "--after", &second], "no other topic").await;
    // Repeated, it changes nothing.
    next_topic(&mut system, 1).await;
    system.setup(&[]).await;
    assert_eq!(system.number("SELECT count(*) FROM topic_layout").await, 2);
    assert_eq!(system.number("SELECT count(*) FROM kafka_offset WHERE next_offset = 0").await, 2);
}

#[tokio::test]
async fn a_record_behind_the_end_is_reported_and_not_folded() {
    let (topic, mut system) = TestSystem::with_topic(2).await;
    let second = next_topic(&mut system, 1).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    done(&system, &["topics", "close", &topic.name, "--yes", "--wait", "30s"]).await;
    drop(aggregator);
    for _ in 0..3 {
        topic.publish(Some(1), Some(b"q"), Some(&event("q", Some("late"), true).to_json()));
    }
    topic.flush();

    let aggregator = system.aggregator(&[]).await;
    eventually("a metric says so", async || {
        (aggregator.metric("likes_records_behind_end", "").await as i64 == 3).then_some(())
    })
    .await;
    aggregator.process.says("a producer still writes there").await;
    let status: Value = serde_json::from_slice(&done(&system, &["status", "--json"]).await.stdout).unwrap();
    let late = &status["behindEnds"];
    assert_eq!((late[0]["topic"].as_str(), late[0]["partition"].as_i64()), (Some(topic.name.as_str()), Some(1)));
    assert!(said(&done(&system, &["status"]).await).contains("NOT COUNTED   3 records"));

    system.set("KAFKA_TOPIC", &second);
    let api = system.api(&[]).await;
    let receipt = api.client().click("u", "r", true, "1").await.receipt;
    api.client().wait_until_counted(&receipt).await;
    assert_eq!(counts(&system).await, [("p".to_owned(), 1), ("r".to_owned(), 1)]);
    let (clean, rebuilt) = (["audit", "--log"], ["rebuild", "--yes"]);
    done(&system, &clean).await;
    done(&system, &rebuilt).await;
    assert_eq!(counts(&system).await, [("p".to_owned(), 1), ("r".to_owned(), 1)]);
}

/// The fence of every batch, whatever its worker believes of the topics.
#[tokio::test]
async fn no_batch_goes_beyond_a_recorded_end_or_comes_before_its_turn() {
    let database = TestDatabase::create().await;
    let fill = format!(
        "INSERT INTO fold VALUES ({FOLD_VERSION});
         INSERT INTO topic_layout VALUES (1, 'first', 2), (2, 'second', 1), (3, 'third', 1);
         INSERT INTO kafka_offset SELECT topic, p, 0, NULL, now() FROM topic_layout, generate_series(0, partitions - 1) p"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&database.pool).await.unwrap();
    let url = DatabaseUrl::from_str(&database.url).unwrap();
    let apply = async |topic: &str, partition: i32, from: i64, records: i64| {
        let mut batch = Batch::default();
        for offset in from..from + records {
            let value = event("p", None, true).to_json();
            let record = Record { partition, offset, time: 1_795_348_800_000, key: Some(b"p"), value: Some(&value) };
            batch.push(&record, from);
        }
        let mut store = Store::new(&url, SCHEMA, topic, Dedup::History(Duration::from_hours(48)));
        match store.apply(&batch).await {
            Ok(_) => true,
            Err(ApplyError::NotActive { .. }) => false,
            Err(error) => panic!("{topic}: {error}"),
        }
    };
    let execute = async |sql: &'static str| {
        sqlx::query(sql).execute(&database.pool).await.unwrap();
    };
    assert!(apply("first", 0, 0, 3).await);
    assert!(!apply("second", 0, 0, 1).await, "the first one is open");
    execute("UPDATE topic_layout SET end_offsets = '{4,1}' WHERE sequence = 1").await;
    assert!(!apply("second", 0, 0, 1).await, "the first one is closed, but not folded");
    assert!(!apply("first", 0, 3, 2).await, "beyond the end");
    assert!(apply("first", 0, 3, 1).await, "up to the end");
    assert!(!apply("second", 0, 0, 1).await, "one partition is not folded");
    assert!(apply("first", 1, 0, 1).await);
    assert!(apply("second", 0, 0, 1).await, "its turn");
    assert!(!apply("third", 0, 0, 1).await, "the second one is open");
    execute("UPDATE kafka_offset SET next_offset = 0 WHERE topic = 'first' AND partition = 1").await;
    assert!(!apply("second", 0, 1, 1).await, "the first one has gone back, as by a restored backup");
}

/// Publishing in transactions leaves markers behind the last record: a lag that no reading ends.
#[tokio::test]
async fn markers_of_transactions_keep_no_topic_open() {
    use rdkafka::ClientConfig;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    let topic = TestTopic::create(1).await;
    let mut system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", "1"]).await;
    next_topic(&mut system, 1).await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("transactional.id", &topic.name)
        .create()
        .unwrap();
    producer.init_transactions(Duration::from_secs(30)).unwrap();
    producer.begin_transaction().unwrap();
    let value = event("p", Some("u"), true).to_json();
    producer.send(BaseRecord::to(&topic.name).key("p").payload(&value)).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();

    let _aggregator = system.aggregator(&[]).await;
    refused(&system, &["topics", "close", &topic.name, "--yes"], "perhaps in a transaction").await;
    producer.commit_transaction(Duration::from_secs(30)).unwrap();
    // The commit is answered before its markers are written.
    eventually("a record and its marker", async || (topic.end_offsets() == [2]).then_some(())).await;
    done(&system, &["topics", "close", &topic.name, "--yes", "--wait", "30s"]).await;
    let status: Value = serde_json::from_slice(&done(&system, &["status", "--json"]).await.stdout).unwrap();
    assert_eq!(status["behindEnds"], json!([]), "a marker is no record");
    done(&system, &["audit", "--log"]).await;
}
