//! Killed or stopped at the points that matter: committed records count once, others count after the
//! restart, and released programs have no such points.

use std::os::unix::process::ExitStatusExt;

use crate::common::{kafka_properties, publish, set_up, users};
use like_testkit::process::{WITH_FAULTS, program};
use like_testkit::{TestSystem, until};

/// A batch per record.
const ONE: (&str, &str) = ("BATCH_MAX_EVENTS", "1");

async fn stored(system: &TestSystem) -> i64 {
    system.number("SELECT sum(next_offset)::bigint FROM kafka_offset").await
}

async fn is_exact(system: &TestSystem, likes: i64) {
    system.folded(likes).await;
    assert_eq!(system.likes().await, likes);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, likes);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_at_any_point_loses_nothing() {
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
async fn stopped_worker_writes_nothing_stale() {
    let (topic, mut system) = set_up(1).await;
    let _file = kafka_properties(
        &mut system,
        "session.timeout.ms=6000
heartbeat.interval.ms=1000
",
    );
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
    until("it folds new records", async || {
        publish(&topic, 0, users("w", 1));
        stored(&system).await > 12
    })
    .await;
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn released_programs_have_no_fault_points() {
    let has = |name: &str, text: &str| {
        let bytes = std::fs::read(program(name)).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    for text in ["FAULT_POINT", "before-commit", "between-batches"] {
        assert!(has(WITH_FAULTS, text), "{text}: this test finds it");
        assert!(!has("like-aggregator", text) && !has("like-api", text), "{text}");
    }
    let (topic, system) = set_up(1).await;
    publish(&topic, 0, users("u", 3));
    let _aggregator = system.aggregator(&[("FAULT_POINT", "before-commit")]).await;
    is_exact(&system, 3).await;
}
