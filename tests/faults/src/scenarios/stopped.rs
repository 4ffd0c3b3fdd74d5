//! An aggregator is stopped (SIGSTOP) for longer than its group waits for it, and continued: with a
//! batch in hand, with a transaction open, at random. Another takes its partitions over within what
//! the timeouts say; what the stopped one still holds then, it can't write any more.

use std::time::{Duration, Instant};

use like_testkit::{eventually, eventually_within};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::scene::{Scene, offsets};
use crate::{Outcome, Run};

/// Until another has counted a like of every partition: the session times out, and then a lock's
/// holder, or the wait for it; the rest is for starting to read, on a busy machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(3 + 10 + 10 + 60);

/// Where it is stopped: in the short form once each of the first two, in the whole this often.
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
        // Small batches, and likes in each partition: none is empty when it is stopped.
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
        if let Some(said) = said_after(*point) {
            eventually(&format!("{point:?}: it says one of {said:?}"), async || {
                let log = victim.process.log();
                said.iter().any(|said| log.contains(said)).then_some(())
            })
            .await;
        }
        // It has lost its place, not its use.
        assert!(other.stop().await.0.success());
        all_advance(&scene, &offsets(&scene.system).await).await;
        assert!(victim.stop().await.0.success());
    }
    let _aggregator = scene.system.aggregator(&[]).await;
    scene.outcome(stops.len()).await
}

/// A like of every partition is counted that wasn't counted `before`.
async fn all_advance(scene: &Scene, before: &[i64]) {
    eventually_within(TAKEN_OVER_WITHIN, "likes of every partition are counted", async || {
        let now = offsets(&scene.system).await;
        before.iter().zip(now).all(|(before, now)| *before < now).then_some(())
    })
    .await;
}

/// What a process says that finds its partitions another's: fenced, or told by PostgreSQL first that
/// its transaction is no more.
fn said_after(point: Option<&str>) -> Option<&'static [&'static str]> {
    const FENCED: &str = "fenced: rewinding the batch's partitions";
    const NO_TRANSACTION: &str = "PostgreSQL can't do this now";
    match point? {
        "between-batches" => Some(&[FENCED]),
        "before-commit" => Some(&[NO_TRANSACTION]),
        "after-begin" => Some(&[FENCED, NO_TRANSACTION]),
        _ => None,
    }
}
