//! `erase-user`: nothing of the user is left in the tables, everybody else's likes are as they
//! were, and what the user does meanwhile is neither lost nor hidden.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use like_testkit::{TestDatabase, TestSystem, TestTopic, event, eventually};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

async fn set_up() -> (TestTopic, TestSystem) {
    let topic = TestTopic::create(4).await;
    let system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", "4"]).await;
    (topic, system)
}

/// `erase-user ada` with these flags: its exit status and its JSON.
async fn erase(system: &TestSystem, flags: &[&str]) -> (Option<i32>, Value) {
    let output = system.command(&[&["erase-user", "ada", "--json"], flags].concat()).await;
    let parsed = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), parsed)
}

#[track_caller]
fn assert_refused(output: &Output, texts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{texts:?}: {error}");
    assert!(texts.iter().all(|text| error.contains(text)), "{texts:?}: {error}");
}

const ADAS_ROWS: &str = "SELECT count(*) FROM product_like WHERE user_id = 'ada'";
const COUNTS: &str = "SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count";

#[tokio::test]
async fn the_users_likes_are_taken_back_counted_and_deleted_and_nobody_elses() {
    let (topic, system) = set_up().await;
    let mut aggregator = system.aggregator(&[]).await;
    for n in 0..20 {
        topic.publish_event(&event(&format!("p{n}"), Some("ada"), true));
        topic.publish_event(&event(&format!("p{n}"), Some("adam"), true));
    }
    topic.flush();
    system.folded(40).await;
    topic.publish_event(&event("p0", Some("ada"), false));
    topic.flush();
    system.folded(41).await;

    let refused = system.command(&["erase-user", "ada"]).await;
    assert_refused(&refused, &["nothing was changed", "--yes"]);
    assert!(String::from_utf8_lossy(&refused.stdout).starts_with("ada likes 19 products; 20 rows would be deleted"));
    assert_eq!(system.number(ADAS_ROWS).await, 20);

    let erased = json!({"user": "ada", "done": true, "likes": 19, "rows": 20, "rowsSince": 0, "retentionMs": -1});
    assert_eq!(erase(&system, &["--yes"]).await, (Some(0), erased));
    assert_eq!((system.number(ADAS_ROWS).await, system.number(COUNTS).await), (0, 20));
    assert_eq!(system.wrong_counts().await, 0);
    // A user whose rows are gone is a user like any other.
    topic.publish_event(&event("p1", Some("ada"), true));
    topic.flush();
    system.folded(41 + 19 + 1).await;
    assert_eq!((system.number(ADAS_ROWS).await, system.number(COUNTS).await), (1, 21));
    let said = String::from_utf8(system.command(&["erase-user", "ada", "--yes"]).await.stdout).unwrap();
    assert!(said.contains("1 likes of ada taken back") && said.contains("keeps each for ever"), "{said}");
    assert!(aggregator.stop().await.0.success());
}

#[tokio::test]
async fn likes_that_are_in_the_log_and_not_counted_yet_are_waited_for() {
    let (topic, system) = set_up().await;
    for n in 0..20 {
        topic.publish_event(&event(&format!("p{n}"), Some("ada"), true));
    }
    topic.flush();
    let output = system.command(&["erase-user", "ada", "--yes", "--timeout", "1s"]).await;
    assert_refused(&output, &["is not folded up to", "is an aggregator running?"]);
    assert_eq!(topic.end_offsets().iter().sum::<i64>(), 20, "nothing was published");

    let erasing = async { erase(&system, &["--yes"]).await };
    let counting = async {
        eventually("it waits", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = 'like-aggregator-erase-user' AND query LIKE '%FROM kafka_offset%'
                         AND datname = current_database()";
            (system.number(sql).await == 1).then_some(())
        })
        .await;
        system.aggregator(&[]).await
    };
    let ((status, erased), _aggregator) = tokio::join!(erasing, counting);
    assert_eq!((status, &erased["likes"], &erased["rows"]), (Some(0), &json!(20), &json!(20)));
    assert_eq!((system.number(ADAS_ROWS).await, system.number(COUNTS).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_does_meanwhile_stays_and_is_said() {
    let (topic, system) = set_up().await;
    let _aggregator = system.aggregator(&[]).await;
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let likes = std::thread::spawn(move || {
        for n in 0.. {
            topic.publish_event(&event(&format!("p{n}"), Some("ada"), true));
            topic.publish_event(&event(&format!("p{}", n / 2), Some("ada"), n % 2 == 0));
            if stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(2)); // a user, not a backlog
        }
        topic.flush();
        topic
    });
    system.number_becomes("SELECT least(count(*), 50) FROM product_like", 50).await;
    let (status, erased) = erase(&system, &["--yes"]).await;
    assert_eq!(status, Some(1), "{erased}");
    assert!(erased["rowsSince"].as_i64().unwrap() > 0 && erased["rows"].as_i64().unwrap() >= 25, "{erased}");
    enough.store(true, Ordering::Relaxed);
    let topic = tokio::task::spawn_blocking(|| likes.join().unwrap()).await.unwrap();
    system.folded(topic.end_offsets().iter().sum()).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert!(system.number(ADAS_ROWS).await > 0);
    assert_eq!(erase(&system, &["--yes"]).await.0, Some(0));
    assert_eq!((system.number(ADAS_ROWS).await, system.number(COUNTS).await), (0, 0));
}

#[tokio::test]
async fn a_like_that_comes_while_the_rows_are_deleted_keeps_its_row() {
    let (topic, system) = set_up().await;
    let _aggregator = system.aggregator(&[]).await;
    topic.publish_event(&event("p1", Some("ada"), true));
    topic.publish_event(&event("p2", Some("ada"), true));
    topic.flush();
    system.folded(2).await;
    // A batch in progress: it lets other batches pass, and the command has to wait for its end.
    let mut batch = system.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE kafka_offset IN ROW SHARE MODE").execute(&mut *batch).await.unwrap();
    let like = async {
        eventually("the command waits for the batch", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                         AND application_name = 'like-aggregator-erase-user' AND datname = current_database()";
            (system.number(sql).await == 1).then_some(())
        })
        .await;
        for sql in [
            "UPDATE product_like SET liked = true WHERE product_id = 'p1'",
            "UPDATE product_like_count SET like_count = like_count + 1 WHERE product_id = 'p1'",
        ] {
            sqlx::query(sql).execute(&mut *batch).await.unwrap();
        }
        batch.commit().await.unwrap();
    };
    let ((status, erased), ()) = tokio::join!(erase(&system, &["--yes"]), like);
    assert_eq!((status, &erased["rows"], &erased["rowsSince"]), (Some(1), &json!(1), &json!(1)));
    assert_eq!((system.number(ADAS_ROWS).await, system.number(COUNTS).await), (1, 1));
    assert_eq!(system.wrong_counts().await, 0);
}

// Transactions block: not on the one thread of a plain runtime.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_foreign_transaction_leaves_at_the_end_of_the_log_is_not_waited_for() {
    let (topic, system) = set_up().await;
    let _aggregator = system.aggregator(&[]).await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("transactional.id", &topic.name)
        .create()
        .unwrap();
    let wait = Duration::from_secs(30);
    producer.init_transactions(wait).unwrap();
    let value = event("p", Some("ada"), true).to_json();
    // One that stands, then more that are taken back than the first look at the end sees.
    for round in 0..8 {
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(&topic.name).partition(0).key("p").payload(&value)).unwrap();
        producer.flush(wait).unwrap();
        if round == 0 { producer.commit_transaction(wait) } else { producer.abort_transaction(wait) }.unwrap();
    }
    eventually("the last marker is in the log", async || (topic.end_offsets()[0] == 16).then_some(())).await;
    system.number_becomes(COUNTS, 1).await;
    let (status, erased) = erase(&system, &["--yes", "--timeout", "20s"]).await;
    assert_eq!((status, &erased["likes"], &erased["rows"]), (Some(0), &json!(1), &json!(1)));
}

#[tokio::test]
async fn a_user_id_that_nobody_can_have_is_refused() {
    let (_topic, system) = set_up().await;
    assert_refused(&system.command(&["erase-user", "a b", "--yes"]).await, &["<USER>", "visible ASCII"]);
    assert_refused(&system.command(&["erase-user"]).await, &["<USER>", "is not set"]);
}
