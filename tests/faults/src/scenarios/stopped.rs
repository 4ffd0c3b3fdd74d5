//! An aggregator is stopped (SIGSTOP) for longer than its session timeout and continued: between batches, with a
//! transaction open, at random. Another one takes its partitions over within the timeouts; the stopped one can't write
//! afterwards.

use std::time::{Duration, Instant};

use like_testkit::{eventually_within, until};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::scene::{Scene, offsets};
use crate::{Outcome, Run};

/// The session timeout, then the lock timeout of the stopped one or of the wait for it, then reading on a busy machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3 + 10 + 10 + 60);

/// Fault points and how often each is used. The short form uses the first two once.
const POINTS: [(Option<&str>, usize); 5] = [
    (Some("between-batches"), 3),
    (Some("before-commit"), 3),
    (Some("after-begin"), 2),
    (Some("after-commit"), 2),
    (None, 4),
];

pub async fn stopped(run: Run) -> Outcome {
    let mut dice = run.dice(3);
    let mut stops = if run.quick {
        vec![POINTS[0].0, POINTS[1].0]
    } else {
        POINTS.iter().flat_map(|(point, full)| vec![*point; *full]).collect()
    };
    stops.shuffle(&mut dice);

    let mut scene = Scene::start(run, 4, run.pick(10, 20), 20).await;
    for point in &stops {
        // Small batches and likes in each partition: every batch has records when the process stops.
        let small = [("BATCH_MAX_EVENTS", "20")];
        scene.deltas(0..16, 200).await;
        let mut victim = if let Some(point) = point {
            let faulty = scene.system.start_faulty(&format!("{point}:{}:stop", dice.random_range(1..4)), &small);
            faulty.process.says("fault point").await;
            faulty
        } else {
            let whole = scene.system.aggregator(&small).await;
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..500))).await;
            whole.process.freeze();
            whole
        };
        let (since, before) = (Instant::now(), offsets(&scene.system).await);
        let mut other = scene.system.start_aggregator(&[]);
        all_advance(&scene, &before).await;
        let took = since.elapsed();
        assert!(took < TAKEN_OVER_WITHIN, "{point:?}: taken over after {took:?}");

        victim.process.thaw();
        if let Some(lines) = logged_after(*point) {
            until(&format!("{point:?}: it logs one of {lines:?}"), async || {
                let log = victim.process.log();
                lines.iter().any(|line| log.contains(line))
            })
            .await;
        }
        // The fenced process takes over again when the other one stops.
        assert!(other.stop().await.0.success());
        all_advance(&scene, &offsets(&scene.system).await).await;
        assert!(victim.stop().await.0.success());
    }
    let _aggregator = scene.system.aggregator(&[]).await;
    scene.outcome(stops.len()).await
}

/// Waits until every partition's offset is above `before`.
async fn all_advance(scene: &Scene, before: &[i64]) {
    eventually_within(TAKEN_OVER_WITHIN, "likes of every partition are counted", async || {
        let now = offsets(&scene.system).await;
        before.iter().zip(now).all(|(before, now)| *before < now).then_some(())
    })
    .await;
}

/// The log line of a process that has lost its partitions: it is fenced, or its transaction timed out first.
fn logged_after(point: Option<&str>) -> Option<&'static [&'static str]> {
    const FENCED: &str = "fenced: rewinding the batch's partitions";
    const NO_TRANSACTION: &str = "PostgreSQL can't do this now";
    match point? {
        "between-batches" => Some(&[FENCED]),
        "before-commit" => Some(&[NO_TRANSACTION]),
        "after-begin" => Some(&[FENCED, NO_TRANSACTION]),
        _ => None,
    }
}
