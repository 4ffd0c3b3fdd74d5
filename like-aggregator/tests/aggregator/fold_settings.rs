//! The fold settings: `setup` records them, and a process that is given others refuses before it folds.

use crate::common::{has_row, set_up};
use like_testkit::{TestSystem, event};

#[tokio::test]
async fn other_dedup_is_refused_everywhere() {
    let (topic, mut system) = set_up(1).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    let both = ["DEDUP=history with DEDUP_WINDOW=2days", "DEDUP=batch with DEDUP_WINDOW=2days"];
    for (name, value, values) in
        [("DEDUP", "batch", both), ("DEDUP_WINDOW", "1m", [both[0], "DEDUP=history with DEDUP_WINDOW=1m"])]
    {
        system.set(name, value);
        for command in [&["setup"][..], &["rebuild", "--yes"], &["audit", "--log"]] {
            system.refused(command, &values).await;
        }
        let output = system.command(&["run"]).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && values.iter().all(|value| error.contains(value)), "{output:?}");
        system.unset(name);
    }
    assert_eq!(system.number("SELECT next_offset FROM kafka_offset").await, 0);
    assert_eq!(system.number("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'likes%'").await, 1);

    system.database.execute("UPDATE fold SET (dedup, dedup_window) = (NULL, NULL)").await;
    let aggregator = system.start_aggregator(&[]);
    aggregator.waits_for("topic", "the fold settings are not recorded").await;
    system.setup(&["--dedup-window", "2days"]).await;
    system.likes_become(1).await;
}

#[tokio::test]
async fn changed_dedup_ends_running_workers() {
    let (topic, system) = set_up(1).await;
    let delta = event("p", None, true);
    let mut history = system.aggregator(&[]).await;
    let publish = |event| {
        topic.publish_event(event);
        topic.flush();
    };
    publish(&delta);
    system.folded(1).await;
    publish(&delta);
    system.folded(2).await;
    system.refused(&["setup", "--dedup", "batch"], &["DEDUP=history", "DEDUP=batch", "--change-dedup"]).await;
    system.setup(&["--dedup", "batch", "--change-dedup"]).await;
    publish(&delta);
    assert_eq!(history.process.ended().await.code(), Some(1));
    let log = history.process.log();
    assert!(log.contains("the database holds DEDUP=batch") && log.contains("folds by History"), "{log}");
    assert_eq!(system.likes().await, 1);

    // One that is given nothing takes what is recorded, and so does a rebuild.
    let batch = system.aggregator(&[("BATCH_MAX_EVENTS", "1")]).await;
    system.folded(3).await;
    assert_eq!(system.likes().await, 2);
    drop(batch);
    system.succeeds(&["rebuild", "--yes", "--batch-max-events", "1"]).await;
    assert_eq!(system.likes().await, 3, "each repeat is in a batch of its own");
    assert_eq!(system.number("SELECT count(*) FROM fold WHERE dedup = 'batch'").await, 1);
}

#[tokio::test]
async fn new_fold_version_is_adopted_explicitly() {
    let (topic, system) = set_up(1).await;
    for user in ["u1", "u2", "u3"] {
        topic.publish_event(&event("p", Some(user), true));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(3).await;
    drop(aggregator);
    // The tables are of an older build.
    system.database.execute("UPDATE fold SET fold_version = 0").await;
    system.refused(&["setup"], &["fold version 0", "--adopt-fold-version"]).await;
    system.refused(&["setup", "--adopt-fold-version"], &["still starts at 0", "rebuild"]).await;
    topic.cut(0, 2).await;
    system.refused(&["rebuild", "--yes"], &["starts at 2"]).await;
    system.setup(&["--adopt-fold-version"]).await;
    topic.publish_event(&event("p", Some("u4"), true));
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.likes_become(4).await;
}

#[tokio::test]
async fn earlier_release_is_upgraded_by_a_rebuild() {
    let (topic, system) = set_up(1).await;
    topic.publish_event(&event("p", Some("u1"), true));
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(1).await;
    drop(aggregator);
    // That release recorded its fold version only.
    system.database.execute("UPDATE fold SET (fold_version, dedup, dedup_window) = (1, NULL, NULL)").await;
    system.refused(&["setup"], &["fold version 1", "rebuild"]).await;
    system.succeeds(&["rebuild", "--yes"]).await;
    system.setup(&[]).await;
    topic.publish_event(&event("p", Some("u2"), true));
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.likes_become(2).await;
}

/// Seconds from now until keys give time-ordered ids; none: never.
async fn ordered_ids_in(system: &TestSystem) -> Option<i64> {
    let sql = "SELECT extract(epoch FROM time_ordered_ids_from - now())::bigint FROM fold";
    system.database.column(sql).await[0]
}

#[tokio::test]
async fn only_a_new_log_has_ordered_ids_at_once() {
    let (topic, mut system) = set_up(1).await;
    system.setup(&["--time-ordered-ids"]).await;
    assert_eq!(system.number("SELECT count(*) FROM fold WHERE time_ordered_ids_from = 'epoch'").await, 1);
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    let other = TestSystem::set_up_on(&topic).await;
    assert_eq!(ordered_ids_in(&other).await, None, "an earlier release may write to this topic");

    // A system that an earlier release has set up.
    system.database.execute("UPDATE fold SET time_ordered_ids_from = NULL").await;
    system.setup(&[]).await;
    let (first, next) = (system.topic.clone(), format!("{}-next", system.topic));
    system.setup(&["--topic", &next, "--partitions", "1", "--after", &first]).await;
    system.succeeds(&["rebuild", "--yes", "--drop-old"]).await;
    assert_eq!(ordered_ids_in(&system).await, None);
    assert_eq!(system.json(&["status"]).await.1["timeOrderedIdsFrom"], serde_json::Value::Null);
    let printed = system.succeeds(&["status"]).await;
    assert!(has_row(&printed, &["ordered", "ids", "no", "(setup", "--time-ordered-ids)"]), "{printed}");

    system.set("KAFKA_TOPIC", &next);
    let counting = system.aggregator(&[]).await;
    system.likes_become(1).await;
    drop(counting);
    let past = ["setup", "--time-ordered-ids", "2026-11-22T10:00:00Z"];
    system.refused(&past, &["--time-ordered-ids", "this database counts already"]).await;
    assert_eq!(ordered_ids_in(&system).await, None);
    system.setup(&["--time-ordered-ids"]).await;
    let left = ordered_ids_in(&system).await.unwrap();
    assert!((500..=600).contains(&left), "{left}");
    let recorded = "SELECT (extract(epoch FROM time_ordered_ids_from) * 1000)::bigint FROM fold";
    let from = system.number(recorded).await;
    system.setup(&["--time-ordered-ids"]).await;
    system.succeeds(&["audit", "--log"]).await;
    system.succeeds(&["rebuild", "--yes", "--drop-old"]).await;
    assert_eq!(system.number(recorded).await, from);
    let printed = system.succeeds(&["status"]).await;
    assert!(printed.contains("ordered ids   of keys from 2"), "{printed}");
}
