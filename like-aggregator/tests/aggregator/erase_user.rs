//! `erase-user`: deletes all rows of the users, changes no other user's likes, and reports what the users
//! like meanwhile.

use std::time::Duration;

use crate::common::{LOCK_OFFSETS, Publishing, set_up, table_reads};
use like_testkit::{TestSystem, event, until};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// `erase-user ada` with these flags: its exit status and its result for ada.
async fn erase(system: &TestSystem, flags: &[&str]) -> (i32, Value) {
    let (status, mut erased) = system.json(&[&["erase-user", "ada"], flags].concat()).await;
    (status, erased["users"][0].take())
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

    let ada = json!({ "user": "ada", "likes": 19, "rows": 20, "rowsSince": 0 });
    let erased = json!({ "done": true, "users": [ada], "deadLetters": 0, "retentionMs": -1 });
    assert_eq!(system.json(&["erase-user", "ada", "--yes"]).await, (0, erased));
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
async fn users_are_found_by_one_scan() {
    for user_likes in ["off", "on"] {
        users_are_found(user_likes).await;
    }
}

async fn users_are_found(user_likes: &str) {
    let (topic, system) = set_up(4).await;
    system.setup(&["--user-likes", user_likes]).await;
    let _aggregator = system.aggregator(&[]).await;
    for n in 0..10 {
        for user in ["ada", "adam", "bob", "eve"] {
            topic.publish_event(&event(&format!("p{n}"), Some(user), true));
        }
    }
    topic.flush();
    system.folded(40).await;
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "eve\r\n\nbob\n").unwrap();
    let reads = async || table_reads(&system, "like-aggregator-erase-user", "product_like").await;
    let before = reads().await;
    let args = ["erase-user", "nobody", "ada", "bob", "--yes", "--file", file.path().to_str().unwrap()];
    let (status, erased) = system.json(&args).await;
    let after = reads().await;
    let expected = if user_likes == "off" { (1, 40) } else { (0, 0) };
    assert_eq!((after.0 - before.0, after.1 - before.1), expected, "sequential scans, and the rows that they read");
    let user = |user, rows| json!({ "user": user, "likes": rows, "rows": rows, "rowsSince": 0 });
    assert_eq!(erased["users"], json!([user("ada", 10), user("bob", 10), user("eve", 10), user("nobody", 0)]));
    assert_eq!((status, system.likes().await, system.wrong_counts().await), (0, 10, 0));
    assert_eq!(system.number("SELECT count(*) FROM product_like WHERE user_id = 'adam'").await, 10, "and no other row");
    assert_eq!(system.number("SELECT count(*) FROM product_like").await, 10);
    let printed = system.refused(&["erase-user", "ada", "adam"], &["nothing was changed"]).await;
    assert!(printed.starts_with("2 users like 10 products; 10 rows would be deleted"), "{printed}");
}

#[tokio::test]
async fn unusable_file_is_refused() {
    let (_topic, system) = set_up(1).await;
    let file = NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (text, error) in [("ada\n\na b\n", "line 3"), ("\n", "names no user")] {
        std::fs::write(file.path(), text).unwrap();
        system.refused(&["erase-user", "bob", "--yes", "--file", path], &[path, error]).await;
    }
}

#[tokio::test]
async fn row_added_since_the_scan_is_found() {
    let (topic, system) = set_up(1).await;
    let _aggregator = system.aggregator(&[]).await;
    topic.publish_event(&event("p1", Some("ada"), true));
    topic.flush();
    system.folded(1).await;
    // The command has read the table and waits until its unlike is counted.
    let held = system.database.lock(LOCK_OFFSETS).await;
    let like = async {
        until("the unlike is in the log", async || topic.end_offsets() == [2]).await;
        topic.publish_event(&event("p2", Some("ada"), true));
        topic.publish_event(&event("p3", Some("ada"), true));
        topic.publish_event(&event("p3", Some("ada"), false));
        topic.publish_event(&event("p4", Some("adam"), true));
        topic.flush();
        held.rollback().await.unwrap();
    };
    let ((status, erased), ()) = tokio::join!(erase(&system, &["--yes"]), like);
    assert_eq!((status, &erased["likes"], &erased["rowsSince"]), (1, &json!(1), &json!(1)), "{erased}");
    system.folded(6).await;
    assert_eq!((system.likes().await, system.wrong_counts().await), (2, 0));
    let printed = system.command(&["erase-user", "ada", "adam", "--yes"]).await;
    assert!(printed.status.success(), "{printed:?}");
    assert_eq!(system.number("SELECT count(*) FROM product_like").await, 0);
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
            "UPDATE product_like_hour SET likes = likes + 1 WHERE product_id = 'p1'",
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
