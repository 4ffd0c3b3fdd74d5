//! `dead-letters`: lists, shows, redrives and drops them. A redrive counts no event twice and undoes no
//! later desired state.

use like_events::LikeEvent;
use like_testkit::{TestService, TestSystem, TestTopic, event};
use serde_json::{Value, json};

struct Letters {
    topic: TestTopic,
    system: TestSystem,
    _aggregator: TestService,
}

impl Letters {
    async fn set_up() -> Self {
        let (topic, system) = TestSystem::with_topic(2).await;
        let aggregator = system.aggregator(&[]).await;
        Self { topic, system, _aggregator: aggregator }
    }

    /// Publishes to partition 0 under this key.
    fn publish(&self, key: Option<&[u8]>, value: &[u8]) {
        self.topic.publish(Some(0), key, Some(value));
    }

    async fn folded(&self) {
        self.topic.flush();
        self.system.folded(self.topic.end_offsets().iter().sum()).await;
    }

    fn position(&self, offset: u32) -> String {
        format!("{}/0/{offset}", self.topic.name)
    }

    /// Standard output and standard error of a command that succeeds.
    async fn run(&self, args: &[&str]) -> String {
        self.system.succeeds(&[&["dead-letters"], args].concat()).await
    }

    async fn refused(&self, args: &[&str], texts: &[&str]) -> String {
        self.system.refused(&[&["dead-letters"], args].concat(), texts).await
    }

    /// Exit status and result.
    async fn json(&self, args: &[&str]) -> (i32, Value) {
        self.system.json(&[&["dead-letters"], args].concat()).await
    }

    async fn left(&self) -> i64 {
        self.system.number("SELECT count(*) FROM dead_letter").await
    }

    async fn likes(&self) -> i64 {
        self.system.likes().await
    }
}

fn like(user: &str) -> LikeEvent {
    event("p", Some(user), true)
}

#[tokio::test]
async fn redriven_letters_count_once() {
    let letters = Letters::set_up().await;
    letters.publish(Some(b"q"), &like("u1").to_json());
    letters.publish(None, &like("u2").to_json());
    letters.publish(Some(b"\xff"), &event("p", None, true).to_json());
    letters.publish(Some(b"p"), b"\x1b[2Jnonsense");
    let unread = String::from_utf8(like("u3").to_json()).unwrap().replace("LIKED", "liked");
    letters.publish(Some(b"p"), unread.as_bytes());
    letters.publish(Some(b"p"), &vec![b' '; 70_000]);
    letters.topic.publish(Some(0), Some(b"p"), None);
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (7, 0));

    let (status, listed) = letters.json(&["list"]).await;
    assert_eq!((status, &listed["total"]), (0, &json!(7)));
    let refused = |line: &Value| line["refused"].as_str().unwrap_or_default().to_owned();
    let why: Vec<_> = listed["letters"].as_array().unwrap().iter().map(refused).collect();
    let expected = ["", "", "", "not_json", "type must be LIKED or UNLIKED", "only its first 64 KiB", "tombstone"];
    for (why, expected) in why.iter().zip(expected) {
        assert!(why.contains(expected) && why.is_empty() == expected.is_empty(), "{why}: {expected}");
    }
    let (_, by_reason) = letters.json(&["list", "--reason", "key_mismatch", "--limit", "1"]).await;
    assert_eq!((&by_reason["total"], by_reason["letters"].as_array().unwrap().len()), (&json!(2), 1));
    let table = letters.run(&["list"]).await;
    assert!(table.contains(&letters.position(1)) && table.contains("7 of 7"), "{table}");

    let shown = letters.run(&["show", &letters.position(3)]).await;
    assert!(shown.contains("12 bytes (text): \\u{1b}[2Jnonsense") && !shown.contains('\x1b'), "{shown}");
    let (_, shown) = letters.json(&["show", &letters.position(2)]).await;
    assert_eq!((&shown["key"], &shown["refused"]), (&json!({"hex": "ff"}), &json!(null)));

    let (status, redriven) = letters.json(&["redrive", "--all"]).await;
    assert_eq!((status, &redriven["redriven"], &redriven["refused"]), (1, &json!(3), &json!(4)));
    assert_eq!(redriven["letters"][0]["position"], json!(letters.position(3)));
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (4, 3));
    assert_eq!(letters.system.wrong_counts().await, 0);
}

#[tokio::test]
async fn counted_event_is_not_redriven() {
    let letters = Letters::set_up().await;
    let delta = event("p", None, true);
    letters.publish(Some(b"q"), &delta.to_json());
    letters.publish(None, &delta.to_json());
    letters.folded().await;
    // The same event twice, in one go: history drops the second.
    let (status, _) = letters.json(&["redrive", "--reason", "key_missing"]).await;
    assert_eq!(status, 0);
    letters.folded().await;
    assert_eq!(letters.likes().await, 1);
    let (status, redriven) = letters.json(&["redrive", &letters.position(0)]).await;
    let why = redriven["letters"][0]["why"].as_str().unwrap();
    assert!(status == 1 && why.starts_with("its event was counted at"), "{why}");
    assert_eq!((letters.left().await, letters.likes().await), (1, 1), "a refused letter stays");
}

/// The reason of the first refused letter of a redrive, whose exit status is 1.
fn first_refusal((status, redriven): (i32, Value)) -> String {
    assert_eq!(status, 1, "{redriven}");
    redriven["letters"][0]["why"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn later_event_refuses_a_redrive() {
    let letters = Letters::set_up().await;
    letters.publish(None, &like("u1").to_json());
    letters.publish(None, &like("u2").to_json());
    letters.folded().await;
    // An unlike of what was never liked: it changes no row.
    letters.topic.publish_event(&event("p", Some("u1"), false));
    letters.folded().await;

    let why = first_refusal(letters.json(&["redrive", "--all"]).await);
    assert!(why.starts_with("its user has sent a later event for the product"), "{why}");
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (1, 1), "u2 alone");
    assert_eq!(letters.json(&["redrive", "--all", "--even-if-changed"]).await.0, 0);
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (0, 2));
}

#[tokio::test]
async fn newest_letter_of_a_pair_is_redriven() {
    let letters = Letters::set_up().await;
    // The older one is in the later partition.
    letters.topic.publish(Some(1), None, Some(&event("p", Some("u1"), false).to_json()));
    letters.topic.flush();
    letters.publish(None, &like("u1").to_json());
    letters.folded().await;
    let times =
        "SELECT count(*) FROM dead_letter WHERE record_time BETWEEN rejected_at - interval '1 day' AND rejected_at";
    assert_eq!(letters.system.number(times).await, 2);

    let older = format!("{}/1/0", letters.topic.name);
    let newer = format!("its user's newer dead letter is at {}", letters.position(0));
    let why = first_refusal(letters.json(&["redrive", &older]).await);
    assert!(why.starts_with(&newer), "also if it isn't selected: {why}");
    let why = first_refusal(letters.json(&["redrive", "--all"]).await);
    assert!(why.starts_with(&newer), "{why}");
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (1, 1));
    let why = first_refusal(letters.json(&["redrive", "--all"]).await);
    assert!(why.contains("a later event"), "the redriven one is in the log now: {why}");
}

#[tokio::test]
async fn shortened_log_refuses_a_redrive() {
    let letters = Letters::set_up().await;
    for user in ["u1", "u2", "u3"] {
        // Each at a time of its own.
        letters.publish(None, &like(user).to_json());
        letters.topic.flush();
    }
    letters.folded().await;
    letters.topic.cut(0, 1).await;
    let why = first_refusal(letters.json(&["redrive", "--all"]).await);
    assert!(why.starts_with("the log no longer has all"), "{why}");
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (2, 1), "u3 alone");
}

#[tokio::test]
async fn letters_of_an_erased_user_are_gone() {
    let letters = Letters::set_up().await;
    letters.publish(None, &like("ada").to_json());
    letters.publish(None, &like("adam").to_json());
    letters.folded().await;
    let (status, erased) = letters.system.json(&["erase-user", "ada", "--yes"]).await;
    assert_eq!((status, &erased["deadLetters"]), (0, &json!(1)));
    assert_eq!(letters.json(&["redrive", "--all"]).await.0, 0);
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (0, 1), "adam alone");
}

#[tokio::test]
async fn drop_needs_yes_and_a_selection() {
    let letters = Letters::set_up().await;
    for _ in 0..3 {
        letters.publish(Some(b"p"), b"nonsense");
        letters.publish(None, &like("u1").to_json());
    }
    letters.folded().await;
    let printed = letters.refused(&["drop", "--all"], &["nothing was changed", "--yes"]).await;
    assert!(printed.starts_with("6 dead letters would be dropped"), "{printed}");
    letters.refused(&["drop", "--yes"], &["<POSITIONS>", "--all"]).await;
    letters.refused(&["drop", "--yes", "p/0"], &["<POSITIONS>", "topic/partition/offset"]).await;
    let gone = [letters.position(0), letters.position(99)];
    letters.refused(&["drop", "--yes", &gone[0], &gone[1]], &[&gone[1], "nothing was changed"]).await;
    assert_eq!(letters.left().await, 6);

    let dropped = letters.json(&["drop", "--yes", &letters.position(0), &letters.position(1)]).await;
    assert_eq!(dropped, (0, json!({"letters": 2, "done": true})));
    assert_eq!(letters.json(&["drop", "--yes", "--reason", "not_json"]).await.1["letters"], 2);
    assert_eq!(letters.left().await, 2);
    assert_eq!(letters.json(&["drop", "--yes", "--all"]).await.1["letters"], 2);
    assert_eq!(letters.left().await, 0);
}

#[tokio::test]
async fn all_pages_are_redriven() {
    let letters = Letters::set_up().await;
    for n in 0..250 {
        letters.publish(None, &like(&format!("u{n}")).to_json());
        letters.publish(Some(b"p"), b"nonsense");
    }
    letters.folded().await;
    let (status, redriven) = letters.json(&["redrive", "--all"]).await;
    assert_eq!((status, &redriven["redriven"], &redriven["refused"]), (1, &json!(250), &json!(250)));
    letters.folded().await;
    assert_eq!((letters.left().await, letters.likes().await), (250, 250));
    // Pages with nothing in them that can be redriven: all stays.
    assert_eq!(letters.json(&["redrive", "--all"]).await.1["refused"], 250);
    assert_eq!(letters.left().await, 250);
}
