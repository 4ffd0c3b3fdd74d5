//! Records that break the contract, next to good ones on the same partition: each becomes a dead
//! letter that names its fault, and nothing else changes.

use crate::common::set_up;
use like_events::topic::MAX_VALUE_BYTES;
use like_testkit::{TestService, event, until};
use sqlx::Row;

/// Bytes of a value that a dead letter keeps.
const KEPT: usize = 64 * 1024;

struct Bad {
    key: Option<&'static [u8]>,
    value: Option<Vec<u8>>,
    reason: &'static str,
}

/// A valid event's JSON for product p, with one text replaced.
fn json(from: &str, to: &str) -> Vec<u8> {
    let valid = r#"{"eventId":"0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","type":"LIKED","productId":"p","userId":"u","occurredAt":"2026-11-22T10:00:00.123Z"}"#;
    let changed = valid.replacen(from, to, 1);
    assert_ne!(valid, changed, "{from} is not in it");
    changed.into_bytes()
}

fn padded(bytes: usize) -> Vec<u8> {
    let mut value = json(r#""userId":"u""#, r#""userId":"large""#);
    value.resize(bytes, b' ');
    value
}

fn bad_records() -> Vec<Bad> {
    let p: Option<&[u8]> = Some(b"p");
    let bad = |key, value, reason| Bad { key, value: Some(value), reason };
    let mut not_utf8 = json("LIKED", "LIK?D");
    let at = not_utf8.iter().position(|b| *b == b'?').unwrap();
    not_utf8[at] = 0xff;
    vec![
        bad(p, not_utf8, "not_utf8: the value is not UTF-8 from byte"),
        bad(p, b"hello".to_vec(), "not_json:"),
        bad(p, Vec::new(), "not_json:"),
        bad(p, json("}", ""), "not_json:"),
        bad(
            p,
            br#"["0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","LIKED","p","u","2026-11-22T10:00:00Z"]"#.to_vec(),
            "not_json: expected an object",
        ),
        bad(p, json("eventId", "eventID"), "field_missing: eventId"),
        bad(p, json("type", "Type"), "field_missing: type"),
        bad(p, json("productId", "product"), "field_missing: productId"),
        bad(p, json("occurredAt", "at"), "field_missing: occurredAt"),
        bad(
            p,
            json(r#""0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee""#, "7"),
            "field_type: eventId must be a string, not a number",
        ),
        bad(p, json(r#""LIKED""#, "true"), "field_type: type must be a string, not a boolean"),
        bad(p, json(r#""p""#, r#"{"id":"p"}"#), "field_type: productId must be a string, not an object"),
        bad(p, json(r#""u""#, "null"), "field_type: userId must be a string, not null"),
        bad(p, json(r#""2026-11-22T10:00:00.123Z""#, "[]"), "field_type: occurredAt must be a string, not an array"),
        bad(p, json("0197aaaa-bbbb", "{0197aaaa-bbbb"), "field_invalid: eventId"),
        bad(p, json("LIKED", "liked"), "field_invalid: type must be LIKED or UNLIKED"),
        bad(Some(b".."), json(r#""p""#, r#""..""#), "field_invalid: productId"),
        bad(p, json(r#""p""#, &format!("\"{}\"", "p".repeat(129))), "field_invalid: productId"),
        bad(p, json(r#""u""#, r#""""#), "field_invalid: userId"),
        bad(p, json(r#""u""#, r#""a\u0000b""#), "field_invalid: userId"),
        bad(p, json(r#""u""#, &format!("\"{}\"", "u".repeat(256))), "field_invalid: userId"),
        bad(p, json("2026-11-22T10:00:00.123Z", "22.11.2026"), "field_invalid: occurredAt"),
        bad(p, json("2026-11-22T10:00:00.123Z", "2026-02-30T10:00:00Z"), "field_invalid: occurredAt"),
        bad(Some(b"q"), json("LIKED", "UNLIKED"), "key_mismatch: the record's key differs from productId p"),
        bad(Some(b""), json("LIKED", "UNLIKED"), "key_mismatch:"),
        bad(Some(b"\xff\x00"), json("LIKED", "UNLIKED"), "key_mismatch:"),
        bad(None, json("LIKED", "UNLIKED"), "key_missing:"),
        Bad { key: p, value: None, reason: "tombstone:" },
        bad(p, padded(MAX_VALUE_BYTES + 1), "too_large: the value has 16385 bytes"),
        bad(p, padded(1_000_000), "too_large: the value has 1000000 bytes"),
    ]
}

async fn dead_letters(aggregator: &TestService) -> (f64, f64) {
    let outcome = aggregator.metric("likes_events_total", r#"outcome="dead_letter""#).await;
    (outcome, aggregator.metric("likes_dead_letters_total", "").await)
}

#[tokio::test]
async fn bad_record_becomes_a_dead_letter() {
    let (topic, system) = set_up(1).await;
    let bad = bad_records();
    for (n, record) in bad.iter().enumerate() {
        topic.publish_event(&event("p", Some(&format!("u{n}")), true));
        topic.publish(Some(0), record.key, record.value.as_deref());
    }
    // The largest that is allowed is no dead letter.
    topic.publish(Some(0), Some(b"p"), Some(&padded(MAX_VALUE_BYTES)));
    topic.flush();
    let (records, rejected) = (2 * bad.len() as i64 + 1, bad.len() as i64);

    let aggregator = system.aggregator(&[]).await;
    system.folded(records).await;
    let likers = "SELECT like_count FROM product_like_count WHERE product_id = 'p'";
    assert_eq!(system.number(likers).await, rejected + 1);
    assert_eq!(system.number("SELECT count(*) FROM product_like_count").await, 1);
    assert_eq!(system.wrong_counts().await, 0);

    let sql = "SELECT record_offset, key, payload, reason FROM dead_letter ORDER BY record_offset";
    let rows = sqlx::query(sql).fetch_all(&system.database.pool).await.unwrap();
    assert_eq!(rows.len(), bad.len());
    for ((n, bad), row) in bad.iter().enumerate().zip(rows) {
        let reason: &str = row.get("reason");
        assert!(reason.starts_with(bad.reason), "{reason}\nexpected: {}", bad.reason);
        assert_eq!(row.get::<i64, _>("record_offset"), 2 * n as i64 + 1, "{reason}");
        assert_eq!(row.get::<Option<&[u8]>, _>("key"), bad.key, "{reason}");
        let kept = bad.value.as_ref().map(|value| &value[..value.len().min(KEPT)]);
        assert!(row.get::<Option<&[u8]>, _>("payload") == kept, "{reason}");
    }
    assert_eq!(dead_letters(&aggregator).await, (rejected as f64, rejected as f64));
    assert_eq!(aggregator.metric("likes_dead_letters_total", r#"reason="too_large""#).await as u32, 2);

    // The next aggregator continues after them and repeats nothing.
    drop(aggregator);
    let aggregator = system.aggregator(&[]).await;
    topic.publish_event(&event("p", Some("last"), true));
    topic.flush();
    system.folded(records + 1).await;
    assert_eq!(system.number(likers).await, rejected + 2);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, rejected);
    assert_eq!(dead_letters(&aggregator).await, (0.0, 0.0));
    assert_eq!(aggregator.metric("likes_events_total", "").await as u32, 1);
}

#[tokio::test]
async fn dead_letters_beyond_bound_keep_offsets() {
    let (topic, system) = set_up(1).await;
    // Every tenth record is a like, and in the second half every other one has another fault.
    let (mut garbage, mut tombstones) = (0, 0);
    for n in 0..2_000 {
        let key = Some(&b"p"[..]);
        if n % 10 == 0 {
            topic.publish_event(&event("p", Some(&format!("u{n}")), true));
        } else if n > 1_000 && n % 2 == 0 {
            topic.publish(Some(0), key, None);
            tombstones += 1;
        } else {
            topic.publish(Some(0), key, Some(b"garbage"));
            garbage += 1;
        }
    }
    topic.flush();
    let _aggregator = system.aggregator(&[("BATCH_MAX_EVENTS", "300")]).await;
    system.folded(2_000).await;
    let kept = |reason: &str| format!("SELECT count(*) FROM dead_letter WHERE reason LIKE '{reason}%'");
    assert_eq!(system.number(&kept("not_json")).await, 1_000);
    assert_eq!(system.number(&kept("tombstone")).await, tombstones);
    assert_eq!(system.likes().await, 200);
    let status = system.json(&["status"]).await.1;
    assert_eq!(status["deadLetters"], garbage + tombstones);
    assert_eq!(status["deadLettersBeyond"], garbage - 1_000);
    // Exactly the records that are neither likes nor kept.
    let ranges = "SELECT count(*) FROM generate_series(0::bigint, 1999) AS o (at)
                  LEFT JOIN dead_letter d ON d.record_offset = o.at
                  WHERE (d.topic IS NULL AND o.at % 10 <> 0)
                     <> EXISTS (SELECT FROM dead_letter_range r WHERE r.bucket = 0 AND r.offsets @> o.at)";
    assert_eq!(system.number(ranges).await, 0);
    let listed = system.json(&["dead-letters", "list"]).await.1;
    assert_eq!(listed["beyond"], status["deadLettersBeyond"]);

    // There is room after a drop: a later letter is kept whole, by a rebuild too.
    system.succeeds(&["dead-letters", "drop", "--reason", "not_json", "--yes"]).await;
    topic.publish(Some(0), Some(b"p"), Some(b"garbage"));
    topic.flush();
    system.folded(2_001).await;
    system.succeeds(&["rebuild", "--yes"]).await;
    assert_eq!(system.number(&kept("not_json")).await, 1);
    let status = system.json(&["status"]).await.1;
    assert_eq!(status["deadLettersBeyond"], garbage - 1_000);
}

// Transactions block: not on the one thread of a plain runtime.
#[tokio::test(flavor = "multi_thread")]
async fn aborted_transaction_is_not_counted() {
    let (topic, system) = set_up(1).await;
    let aggregator = system.aggregator(&[]).await;
    let transactions = topic.transactions();
    let like = |user: String| event("p", Some(&user), true).to_json();
    for round in 0..3 {
        topic.publish_event(&event("p", Some(&format!("before-{round}")), true));
        topic.flush();
        for commit in [true, false] {
            transactions.begin("p", &[like(format!("{commit}-{round}-a")), like(format!("{commit}-{round}-b"))]);
            if commit { transactions.commit() } else { transactions.abort() }
        }
    }
    // Each round: 1 record, 2 committed ones with a marker, 2 aborted ones with a marker. A marker that
    // comes after the last record would be no hole in the log.
    until("the last marker is in the log", async || topic.end_offsets() == [3 * 7]).await;
    topic.publish_event(&event("p", Some("last"), true));
    topic.flush();

    system.folded(3 * 7 + 1).await;
    let mut users: Vec<String> = system.database.column("SELECT user_id FROM product_like WHERE liked").await;
    users.sort();
    let committed = |round| [format!("before-{round}"), format!("true-{round}-a"), format!("true-{round}-b")];
    let mut expected: Vec<_> = (0..3).flat_map(committed).chain(["last".to_owned()]).collect();
    expected.sort();
    assert_eq!(users, expected);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT count(*) FROM log_gap").await, 0);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 0);
    assert_eq!(aggregator.metric("likes_events_total", "").await as u32, 10);
}

/// It is counted: its producer has acknowledged it, and a single database reads all partitions.
#[tokio::test]
async fn event_in_another_partition_is_counted_and_reported() {
    let (topic, system) = set_up(2).await;
    let due = like_events::partition(b"p", 2);
    for (user, partition) in [("u1", due), ("u2", 1 - due), ("u3", 1 - due)] {
        topic.publish(Some(partition), Some(b"p"), Some(&event("p", Some(user), true).to_json()));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.likes_become(3).await;
    aggregator.process.says("some producer does not partition its records").await;
    until("a metric says so", async || aggregator.metric("likes_misplaced_events_total", "").await as u32 == 2).await;
}
