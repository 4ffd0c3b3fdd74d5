//! Every event is published twice: soon after by a producer that repeats everything, and some a million records later,
//! so that the repeat is in another batch, in another process, after restarts and rebalances.

use std::time::Duration;

use like_testkit::{eventually_within, until};
use rand::RngExt;

use super::scene::{Scene, offsets};
use crate::echo::Echo;
use crate::{Outcome, Run, deltas};

const PARTITIONS: i32 = 8;
/// Products of the delta events.
const PRODUCTS: usize = 16;
/// The records in between are published in pieces of this size.
const PIECE: usize = 1_000;
/// How long folding everything may take.
const LIMIT: Duration = Duration::from_secs(600);

pub async fn twice(run: Run) -> Outcome {
    let (between, kills) = run.pick((20_000, 3), (1_000_000, 12));
    let mut dice = run.dice(4);
    let mut scene = Scene::start(run, PARTITIONS, run.pick(10, 20), 20).await;
    let (kafka, topic) = (like_testkit::kafka(), scene.system.topic.clone());
    let echo = Echo::start(&topic, PARTITIONS);
    let apart: Vec<_> = (0..PRODUCTS).flat_map(|n| deltas::events(&format!("apart-{n}"), 100)).collect();
    deltas::send(&kafka, &topic, &apart).await;
    scene.others = deltas::record(&apart);

    // One aggregator is killed and restarted again and again while the other one folds.
    let mut steady = scene.system.start_aggregator(&[]);
    let mut victim = scene.system.start_aggregator(&[]);
    for kill in 0..kills {
        let mut piece = Vec::new();
        for n in between * kill / kills / PIECE..between * (kill + 1) / kills / PIECE {
            piece.extend(deltas::events(&format!("delta-{}", n % PRODUCTS), PIECE));
        }
        deltas::send(&kafka, &topic, &piece).await;
        scene.others = scene.others.and(deltas::record(&piece));
        until("both have partitions", async || (1..PARTITIONS as usize).contains(&steady.owned().await.len())).await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..500))).await;
        victim.process.kill();
        victim.process.ended().await;
        victim = scene.system.start_aggregator(&[]);
    }
    assert!(steady.stop().await.0.success());
    victim.process.kill();
    victim.process.ended().await;

    let last = scene.system.aggregator(&[]).await;
    deltas::send(&kafka, &topic, &apart).await;
    let record = scene.crowd.finish().await.and(scene.others);
    let repeated = echo.finish().await;
    eventually_within(LIMIT, "the log is folded to its end", async || {
        (offsets(&scene.system).await == repeated.ends).then_some(())
    })
    .await;
    assert!(repeated.records >= record.event_ids.len() + apart.len(), "{} records repeated", repeated.records);
    let dropped = last.metric("likes_events_total", r#"outcome="duplicate""#).await as usize;
    assert!(dropped > apart.len(), "{dropped} duplicates dropped by the last one");
    super::scene::outcome(&record, &scene.system, &scene.api, kills + 1).await
}
