//! `erase-user`: deletes all rows of the user, changes no other user's likes, and reports what the user
//! likes meanwhile.

use std::time::Duration;

use crate::common::{Publishing, set_up};
use like_testkit::{TestSystem, event, until};
use serde_json::{Value, json};

/// `erase-user ada` with these flags: its exit status and its result.
async fn erase(system: &TestSystem, flags: &[&str]) -> (i32, Value) {
    system.json(&[&["erase-user", "ada"], flags].concat()).await
}

const ADAS_ROWS: &str = "SELECT count(*) FROM product_like WHERE user_id = 'ada'";

#[tokio::test]
async fn likes_are_taken_back_and_deleted() {
    let (topic, system) = set_up(4).await;
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

    let printed = system.refused(&["erase-user", "ada"], &["nothing was changed", "--yes"]).await;
    assert!(printed.starts_with("ada likes 19 products; 20 rows would be deleted"), "{printed}");
    assert_eq!(system.number(ADAS_ROWS).await, 20);

    let erased = json!({
        "user": "ada", "done": true, "likes": 19, "rows": 20, "deadLetters": 0, "rowsSince": 0, "retentionMs": -1
    });
    assert_eq!(erase(&system, &["--yes"]).await, (0, erased));
    assert_eq!((system.number(ADAS_ROWS).await, system.likes().await), (0, 20));
    assert_eq!(system.wrong_counts().await, 0);
    // The erased user may like again.
    topic.publish_event(&event("p1", Some("ada"), true));
    topic.flush();
    system.folded(41 + 19 + 1).await;
    assert_eq!((system.number(ADAS_ROWS).await, system.likes().await), (1, 21));
    let printed = system.succeeds(&["erase-user", "ada", "--yes"]).await;
    assert!(printed.contains("1 likes of ada taken back") && printed.contains("keeps each for ever"), "{printed}");
    assert!(aggregator.stop().await.0.success());
}

#[tokio::test]
async fn likes_in_the_log_are_waited_for() {
    let (topic, system) = set_up(4).await;
    for n in 0..20 {
        topic.publish_event(&event(&format!("p{n}"), Some("ada"), true));
    }
    topic.flush();
    let args = ["erase-user", "ada", "--yes", "--timeout", "1s"];
    system.refused(&args, &["is not folded up to", "is an aggregator running?"]).await;
    assert_eq!(topic.end_offsets().iter().sum::<i64>(), 20, "nothing was published");

    let counting = async {
        until("it waits", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity
                       WHERE application_name = 'like-aggregator-erase-user' AND query LIKE '%FROM kafka_offset%'
                         AND datname = current_database()";
            system.number(sql).await == 1
        })
        .await;
        system.aggregator(&[]).await
    };
    let ((status, erased), _aggregator) = tokio::join!(erase(&system, &["--yes"]), counting);
    assert_eq!((status, &erased["likes"], &erased["rows"]), (0, &json!(20), &json!(20)));
    assert_eq!((system.number(ADAS_ROWS).await, system.likes().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn likes_meanwhile_are_reported() {
    let (topic, system) = set_up(4).await;
    let _aggregator = system.aggregator(&[]).await;
    let publishing = Publishing::start(topic, |topic, n| {
        topic.publish_event(&event(&format!("p{n}"), Some("ada"), true));
        topic.publish_event(&event(&format!("p{}", n / 2), Some("ada"), n % 2 == 0));
        std::thread::sleep(Duration::from_millis(2)); // a user, not a backlog
    });
    system.number_becomes("SELECT least(count(*), 50) FROM product_like", 50).await;
    let (status, erased) = erase(&system, &["--yes"]).await;
    assert_eq!(status, 1, "{erased}");
    assert!(erased["rowsSince"].as_i64().unwrap() > 0 && erased["rows"].as_i64().unwrap() >= 25, "{erased}");
    let topic = publishing.stop().await;
    system.folded(topic.end_offsets().iter().sum()).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert!(system.number(ADAS_ROWS).await > 0);
    assert_eq!(erase(&system, &["--yes"]).await.0, 0);
    assert_eq!((system.number(ADAS_ROWS).await, system.likes().await), (0, 0));
}

#[tokio::test]
async fn like_during_deletion_keeps_its_row() {
    let (topic, system) = set_up(4).await;
    let _aggregator = system.aggregator(&[]).await;
    topic.publish_event(&event("p1", Some("ada"), true));
    topic.publish_event(&event("p2", Some("ada"), true));
    topic.flush();
    system.folded(2).await;
    // A batch in progress: other batches pass, and the command has to wait for its commit.
    let mut batch = system.database.lock("LOCK TABLE kafka_offset IN ROW SHARE MODE").await;
    let like = async {
        system.database.waiting_for_lock("like-aggregator-erase-user", 1).await;
        for sql in [
            "UPDATE product_like SET liked = true WHERE product_id = 'p1'",
            "UPDATE product_like_count SET like_count = like_count + 1 WHERE product_id = 'p1'",
        ] {
            sqlx::query(sql).execute(&mut *batch).await.unwrap();
        }
        batch.commit().await.unwrap();
    };
    let ((status, erased), ()) = tokio::join!(erase(&system, &["--yes"]), like);
    assert_eq!((status, &erased["rows"], &erased["rowsSince"]), (1, &json!(1), &json!(1)));
    assert_eq!((system.number(ADAS_ROWS).await, system.likes().await), (1, 1));
    assert_eq!(system.wrong_counts().await, 0);
}

// Transactions block: not on the one thread of a plain runtime.
#[tokio::test(flavor = "multi_thread")]
async fn aborted_records_are_not_waited_for() {
    let (topic, system) = set_up(4).await;
    let _aggregator = system.aggregator(&[]).await;
    let transactions = topic.transactions();
    let value = [event("p", Some("ada"), true).to_json()];
    // One is committed; then come more aborted ones than the first read of the log's end covers.
    transactions.begin("p", &value);
    transactions.commit();
    for _ in 0..7 {
        transactions.begin("p", &value);
        transactions.abort();
    }
    until("the last marker is in the log", async || topic.end_offsets()[0] == 16).await;
    system.likes_become(1).await;
    let (status, erased) = erase(&system, &["--yes", "--timeout", "20s"]).await;
    assert_eq!((status, &erased["likes"], &erased["rows"]), (0, &json!(1), &json!(1)));
}

#[tokio::test]
async fn impossible_user_id_is_refused() {
    let (_topic, system) = set_up(4).await;
    system.refused(&["erase-user", "a b", "--yes"], &["<USER>", "visible ASCII"]).await;
    system.refused(&["erase-user"], &["<USER>", "is not set"]).await;
}
