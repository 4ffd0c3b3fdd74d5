//! The status of an acknowledged like, from the rows that like-aggregator writes.

use std::time::Duration;

use like_testkit::{TestDatabase, TestTopic, eventually};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reqwest::Method;
use serde_json::json;

use crate::common::TestApp;

const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn receipt_tells_its_events_status() {
    let (topic, database) = (TestTopic::create(2).await, TestDatabase::create().await);
    // An earlier topic, closed at offset 5 of its only partition and folded up to 3; ours second.
    let t = topic.name.as_str();
    for sql in [
        "INSERT INTO topic_layout VALUES (1, 'earlier', 1, '{5}')".to_owned(),
        format!("INSERT INTO topic_layout VALUES (2, '{t}', 2, NULL)"),
        format!("INSERT INTO kafka_offset VALUES ('earlier', 0, 3, NULL, now()), ('{t}', 0, 5, NULL, now())"),
        format!("INSERT INTO dead_letter VALUES ('{t}', 0, 2, NULL, NULL, 'tombstone', now())"),
        format!("INSERT INTO dead_letter_range VALUES ('{t}', 0, 0, 'not_json', '{{[3,4)}}', now())"),
        format!("INSERT INTO log_gap VALUES ('{t}', 0, 0, 2, now()), ('{t}', 1, 0, 9, now())"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&database.pool).await.unwrap();
    }
    for key in [&b"a"[..], b"b", b"c", b"d", b"e", b"f"] {
        topic.publish(Some(0), Some(key), Some(b"{}"));
    }
    topic.flush();
    let api = TestApp::on(topic, database, |_| ()).await;
    for (receipt, status) in [
        ("2-0-0", "lost"),
        ("2-0-1", "lost"),
        ("2-0-2", "dead_letter"),
        ("2-0-3", "dead_letter"),
        ("2-0-4", "counted"),
        ("2-0-5", "pending"),
        ("1-0-2", "counted"),
        ("1-0-3", "pending"),
        ("1-0-4", "pending"),
    ] {
        let answer = api.get(&format!("/v1/receipts/{receipt}")).await;
        assert_eq!(answer.status, 200, "{receipt}: {answer:?}");
        assert_eq!(answer.json, serde_json::json!({ "status": status }), "{receipt}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    // Past the end of the closed and of the open topic; an unknown partition or topic.
    for receipt in ["1-0-5", "2-0-6", "2-1-0", "2-0-9223372036854775807", "2-2-0", "2-2147483647-0", "1-1-0", "3-0-0"] {
        api.get(&format!("/v1/receipts/{receipt}")).await.assert_problem(404, "receipt-unknown");
    }
}

#[tokio::test]
async fn like_is_pending_until_folded() {
    let api = TestApp::ready(1).await;
    let location = api.like("p1", "u1").await.header("location").to_owned();
    assert_eq!(api.get(&location).await.json["status"], "pending");
    sqlx::query("UPDATE kafka_offset SET next_offset = 1").execute(&api.database.pool).await.unwrap();
    assert_eq!(api.get(&location).await.json["status"], "counted");
}

#[tokio::test]
async fn receipt_of_a_repeat_says_so() {
    let api = TestApp::ready(1).await;
    let click = async || {
        let headers = [("X-User-Id", "u1"), ("Idempotency-Key", "k")];
        let location = api.send(Method::PUT, "/v1/products/p1/like", &headers).await.header("location").to_owned();
        let (_, time) = location.split_once("&recordTime=").unwrap();
        (location.clone(), time.to_owned())
    };
    let (first, first_time) = click().await;
    let (repeat, repeat_time) =
        eventually("a later millisecond", async || Some(click().await).filter(|(_, time)| *time != first_time)).await;
    let answer = async |path: &str| api.get(path).await.json;
    assert_eq!(answer(&repeat).await, json!({ "status": "pending" }));
    // As the aggregator folds them: the history has the event with the time of its first record.
    let event_id = first.split(['=', '&']).nth(1).unwrap();
    let fold = async |set: &str| {
        let row = "INSERT INTO fold (fold_version) VALUES (1) ON CONFLICT DO NOTHING";
        api.database.execute(row).await;
        api.database.execute(format!("UPDATE fold SET {set}")).await;
    };
    fold("dedup = 'history', dedup_window = '48 hours'").await;
    api.database.execute("SELECT make_event_window(now(), '48 hours')").await;
    api.database.execute(format!("INSERT INTO event_handled VALUES ('{event_id}', '{first_time}')")).await;
    api.database.execute("UPDATE kafka_offset SET next_offset = 1000").await;
    let counted = json!({ "status": "counted" });
    assert_eq!(answer(&repeat).await, json!({ "status": "counted", "repeat": true }));
    assert_eq!(answer(&first).await, counted);
    // Nothing is claimed that isn't known.
    let receipt = repeat.split('?').next().unwrap();
    for query in [
        String::new(),
        format!("?eventId={event_id}"),
        format!("?recordTime={repeat_time}"),
        format!("?eventId={event_id}&recordTime={first_time}"),
        format!("?eventId={}&recordTime={repeat_time}", uuid::Uuid::now_v7()),
    ] {
        assert_eq!(answer(&format!("{receipt}{query}")).await, counted, "{query}");
    }
    for set in ["dedup_window = '1 microsecond'", "dedup = 'batch', dedup_window = '48 hours'"] {
        fold(set).await;
        assert_eq!(answer(&repeat).await, counted, "{set}");
    }
    for (query, parameter) in [("?eventId=1", "eventId"), ("?recordTime=1", "recordTime")] {
        let refused = api.get(&format!("{receipt}{query}")).await;
        refused.assert_problem(400, "invalid-request");
        assert_eq!(refused.json["errors"][0]["parameter"], parameter);
    }
    // A role of an earlier release has no right to read the history.
    api.database.execute("ALTER TABLE event_handled RENAME TO gone").await;
    assert_eq!(answer(&repeat).await, counted);
}

#[tokio::test]
async fn open_transaction_hides_no_event() {
    let api = TestApp::ready(1).await;
    let foreign: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("transactional.id", &api.topic.name)
        .create()
        .unwrap();
    foreign.init_transactions(TIMEOUT).unwrap();
    foreign.begin_transaction().unwrap();
    foreign.send(BaseRecord::to(&api.topic.name).key("p1").payload("{}")).map_err(|(error, _)| error).unwrap();
    foreign.flush(TIMEOUT).unwrap();
    // Acknowledged, but by another replica: this one has to ask the broker.
    api.topic.publish(Some(0), Some(b"p1"), Some(b"{}"));
    api.topic.flush();
    assert_eq!(api.get("/v1/receipts/1-0-1").await.json["status"], "pending");
    api.get("/v1/receipts/1-0-2").await.assert_problem(404, "receipt-unknown");
    foreign.abort_transaction(TIMEOUT).unwrap();
}
