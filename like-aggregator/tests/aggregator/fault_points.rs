//! Killed or stopped at exactly the moments that matter: what was committed counts once, what was
//! not counts after the restart, and the programs that are shipped can't be told to do that.

use std::os::unix::process::ExitStatusExt;

use crate::common::{publish, set_up, users};
use like_testkit::process::{WITH_FAULTS, program};
use like_testkit::{TestSystem, eventually};

/// A batch per record.
const ONE: (&str, &str) = ("BATCH_MAX_EVENTS", "1");

async fn stored(system: &TestSystem) -> i64 {
    system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await
}

async fn is_exact(system: &TestSystem, likes: i64) {
    system.folded(likes).await;
    assert_eq!(system.number("SELECT sum(like_count)::bigint FROM product_like_count").await, likes);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, likes);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_of_the_third_batch_it_goes_on_exactly() {
    for (point, committed) in [("after-begin", 2), ("before-commit", 2), ("after-commit", 3), ("between-batches", 2)] {
        let (topic, system) = set_up(1).await;
        publish(&topic, 0, users("u", 6));
        let mut faulty = system.start_faulty(&format!("{point}:3"), &[ONE]);
        let status = faulty.process.ended().await;
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        assert_eq!(stored(&system).await, committed, "{point}");
        let _aggregator = system.aggregator(&[]).await;
        is_exact(&system, 6).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_mid_transaction_its_locks_go_and_it_writes_nothing_stale() {
    let (topic, mut system) = set_up(1).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "session.timeout.ms=6000\nheartbeat.interval.ms=1000\n").unwrap();
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().unwrap());
    publish(&topic, 0, users("u", 6));
    let mut stopped = system.start_faulty("before-commit:2:stop", &[ONE]);
    stopped.process.says("fault point").await;
    let other = system.aggregator(&[]).await;
    is_exact(&system, 6).await;

    stopped.process.thaw();
    publish(&topic, 0, users("v", 6));
    is_exact(&system, 12).await;
    stopped.wait_until_ready().await;
    is_exact(&system, 12).await;
    drop(other);
    eventually("it goes on with what comes", async || {
        publish(&topic, 0, users("w", 1));
        (stored(&system).await > 12).then_some(())
    })
    .await;
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_that_are_shipped_have_no_fault_points() {
    let has = |name: &str, text: &str| {
        let bytes = std::fs::read(program(name)).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    for text in ["FAULT_POINT", "before-commit", "between-batches"] {
        assert!(has(WITH_FAULTS, text), "{text}: this test would find it");
        assert!(!has("like-aggregator", text) && !has("like-api", text), "{text}");
    }
    let (topic, system) = set_up(1).await;
    publish(&topic, 0, users("u", 3));
    let _aggregator = system.aggregator(&[("FAULT_POINT", "before-commit")]).await;
    is_exact(&system, 3).await;
}
