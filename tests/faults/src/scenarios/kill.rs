//! kill -9 of the aggregator while there is lag: at random moments, between BEGIN and COMMIT, between COMMIT and the
//! commit to Kafka, between batches. The next process continues, and each event counts once.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::scene::{Scene, offsets};
use crate::{Outcome, Run, deltas};

/// Fault points and how often each is used; once each in the short form.
const POINTS: [(&str, usize); 4] =
    [("before-commit", 8), ("after-begin", 4), ("after-commit", 5), ("between-batches", 5)];
const AT_RANDOM: usize = 10;

pub async fn kill(run: Run) -> Outcome {
    let mut dice = run.dice(1);
    let times = |full| if run.quick { 1 } else { full };
    let mut kills: Vec<_> = POINTS.iter().flat_map(|(point, full)| vec![Some(*point); times(*full)]).collect();
    kills.extend(vec![None; run.pick(2, AT_RANDOM)]);
    kills.shuffle(&mut dice);

    let mut scene = Scene::start(run, 8, run.pick(10, 20), 20).await;
    // Small batches, so that there is lag at each kill.
    scene.system.set("BATCH_MAX_EVENTS", "200");
    let backlog = kills.len() * 2_000;
    for (product, each) in [("product-0", backlog / 2), ("delta-only", backlog / 2)] {
        let more = deltas::publish(&like_testkit::kafka(), &scene.system.topic, product, each, 1).await;
        scene.others = scene.others.and(more);
    }
    for kill in &kills {
        assert!(lag(&scene).await > 0, "no lag: this kill would prove nothing");
        let mut victim = if let Some(point) = kill {
            scene.system.start_faulty(&format!("{point}:{}", dice.random_range(1..4)), &[])
        } else {
            let victim = scene.system.aggregator(&[]).await;
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..500))).await;
            victim.process.kill();
            victim
        };
        let status = victim.process.ended().await;
        assert_eq!(status.signal(), Some(9), "{kill:?}: {status}");
    }
    assert!(lag(&scene).await > 0, "no lag at the last kill");
    let _aggregator = scene.system.aggregator(&[]).await;
    scene.outcome(kills.len()).await
}

/// Events that are acknowledged and not folded yet: a lower bound.
async fn lag(scene: &Scene) -> i64 {
    let acknowledged = scene.others.event_ids.len() + scene.crowd.acknowledged();
    acknowledged as i64 - offsets(&scene.system).await.iter().sum::<i64>()
}
