//! The index of users' likes: made and dropped beside running workers, finished after an interruption, and carried along by a
//! rebuild.

use crate::common::set_up;
use like_testkit::{TestSystem, event};
use serde_json::{Value, json};

async fn user_likes(system: &TestSystem) -> Value {
    system.json(&["status"]).await.1["userLikes"].take()
}

/// The valid indexes of `product_like`, its key included.
const INDEXES: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'likes.product_like'::regclass AND indisvalid";

#[tokio::test]
async fn index_is_made_and_dropped_beside_workers() {
    let (topic, system) = set_up(4).await;
    assert_eq!(user_likes(&system).await, "on", "of a new system");
    let _aggregator = system.aggregator(&[]).await;
    let mut folded = 0;
    for (args, expected, indexes) in [
        (&["--user-likes", "off"][..], "off", 1),
        (&[], "off", 1),
        (&["--user-likes", "on"], "on", 2),
        (&[], "on", 2),
        (&["--user-likes", "on"], "on", 2),
    ] {
        for n in 0..20 {
            topic.publish_event(&event(&format!("p{n}"), Some(&format!("u{folded}")), true));
        }
        topic.flush();
        system.setup(args).await;
        folded += 20;
        system.folded(folded).await;
        assert_eq!((user_likes(&system).await, system.number(INDEXES).await), (json!(expected), indexes), "{args:?}");
        assert_eq!(system.wrong_counts().await, 0);
    }
    let text = system.succeeds(&["status"]).await;
    assert!(text.contains("user likes    listed\n"), "{text}");
}

#[tokio::test]
async fn interrupted_index_is_made_again() {
    let (_topic, system) = set_up(1).await;
    // As a killed CREATE INDEX CONCURRENTLY leaves it.
    let invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'likes.product_like_user_id'::regclass";
    for args in [&[][..], &["--user-likes", "on"]] {
        system.database.execute(invalid).await;
        assert_eq!(user_likes(&system).await, "incomplete");
        system.setup(args).await;
        assert_eq!((user_likes(&system).await, system.number(INDEXES).await), (json!("on"), 2), "{args:?}");
    }
    system.database.execute(invalid).await;
    system.setup(&["--user-likes", "off"]).await;
    assert_eq!(user_likes(&system).await, "off");
    // Two at once wait for each other.
    let (one, other) = tokio::join!(
        system.command(&["setup", "--user-likes", "on"]),
        system.command(&["setup", "--user-likes", "on"])
    );
    assert!(one.status.success() && other.status.success(), "{one:?} {other:?}");
    assert_eq!(system.number(INDEXES).await, 2);
}

#[tokio::test]
async fn rebuild_carries_the_index_along() {
    let (topic, system) = set_up(2).await;
    for n in 0..50 {
        topic.publish_event(&event(&format!("p{n}"), Some("u"), true));
    }
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(50).await;
    for (choice, indexes) in [("on", 2), ("off", 1)] {
        system.setup(&["--user-likes", choice]).await;
        system.succeeds(&["rebuild", "--yes", "--drop-old"]).await;
        assert_eq!((user_likes(&system).await, system.number(INDEXES).await), (json!(choice), indexes));
        assert_eq!((system.likes().await, system.wrong_counts().await), (50, 0));
    }
}
