//! A rebalance storm: aggregators are stopped, killed and started at random, so that partitions keep moving with batches
//! in flight, and two processes often believe to own the same partition.

use std::mem;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use like_testkit::TestService;
use rand::RngExt;

use super::scene::Scene;
use crate::{Outcome, Run};

pub async fn storm(run: Run) -> Outcome {
    let (aggregators, partitions, faults) = run.pick((3_usize, 8, 10), (8, 32, 60));
    let mut dice = run.dice(2);
    let mut scene = Scene::start(run, partitions, run.pick(10, 20), 20).await;
    // Small batches, so that one is in flight at most moments.
    scene.system.set("BATCH_MAX_EVENTS", "50");
    scene.system.set("BATCH_MAX_WAIT", "20ms");
    scene.deltas(0..16, faults * 100).await;
    let mut fleet: Vec<_> = (0..aggregators).map(|_| Some(scene.system.start_aggregator(&[]))).collect();
    for one in fleet.iter_mut().flatten() {
        one.wait_until_ready().await;
    }
    let (mut ending, mut killed) = (Vec::new(), Vec::new());
    for _ in 0..faults {
        tokio::time::sleep(Duration::from_millis(dice.random_range(100..run.pick(1_000, 2_500)))).await;
        let slot = &mut fleet[dice.random_range(0..aggregators)];
        let Some(mut victim) = mem::take(slot) else {
            *slot = Some(scene.system.start_aggregator(&[]));
            continue;
        };
        assert_eq!(victim.process.status(), None, "an aggregator exited");
        if dice.random() {
            victim.process.kill();
            killed.push(victim);
        } else {
            victim.process.terminate();
            ending.push(victim);
        }
    }
    for victim in &mut killed {
        assert_eq!(victim.process.ended().await.signal(), Some(9));
    }
    for victim in &mut ending {
        let status = victim.process.ended().await;
        // Before its handler is installed, the signal itself ends it.
        assert!(status.success() || status.signal() == Some(15), "SIGTERM: {status}");
    }
    for slot in &mut fleet {
        slot.get_or_insert_with(|| scene.system.start_aggregator(&[])).wait_until_ready().await;
    }
    let rebalances = |one: &TestService| {
        let log = one.process.log();
        log.matches("partitions assigned").count() + log.matches("partitions revoked").count()
    };
    let rebalances: usize = fleet.iter().flatten().chain(&killed).chain(&ending).map(rebalances).sum();
    // On a busy machine the short form sees the first assignments and at least one more.
    assert!(rebalances > run.pick(aggregators, faults), "{rebalances} rebalances seen: no storm");
    scene.outcome(faults).await
}
