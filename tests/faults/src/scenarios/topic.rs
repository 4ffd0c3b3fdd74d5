//! The log is not the one that was folded: the topic is deleted and created again, shorter or longer than before, or
//! retention has removed records that were not folded yet. Nothing is counted wrongly until an operator runs the command
//! that the message names; lost likes are reported as lost; everything else counts.

use std::time::Duration;

use like_events::Receipt;
use like_testkit::{Crowd, Differences, Record, TestService, TestSystem, TestTopic, eventually, eventually_within};
use rand::RngExt;

use super::scene::{Scene, offsets};
use crate::{Outcome, Run};

const PARTITIONS: i32 = 4;
/// A log that ends too early gets 30 s to grow, and offsets are compared once a minute.
const LIMIT: Duration = Duration::from_secs(180);

/// How the new topic differs, and what the operator does.
#[derive(Debug, Clone, Copy)]
struct Recreated {
    longer: bool,
    /// The aggregator runs while the topic is replaced.
    running: bool,
    /// The operator rebuilds from the new log; otherwise the new log is added to the old counts.
    rebuild: bool,
}

pub async fn topic(run: Run) -> Outcome {
    let mut all = cut(run).await;
    let changes = [
        Recreated { longer: true, running: false, rebuild: false },
        Recreated { longer: true, running: true, rebuild: true },
        Recreated { longer: false, running: false, rebuild: false },
        Recreated { longer: false, running: true, rebuild: false },
    ];
    for change in &changes[..run.pick(1, changes.len())] {
        all = all.and(recreated(run, *change).await);
    }
    all
}

/// Retention removes unfolded records while the aggregator is stopped.
async fn cut(run: Run) -> Outcome {
    let mut dice = run.dice(5);
    let (topic, system) = TestSystem::with_topic(PARTITIONS).await;
    let mut scene = Scene::on_topic(system, run, run.pick(10, 20), 20).await;
    let mut expected: Vec<(i32, i64, i64)> = Vec::new();
    let rounds = run.pick(1, 5);
    for _ in 0..rounds {
        let mut aggregator = scene.system.aggregator(&[]).await;
        scene.acknowledges(100).await;
        assert!(aggregator.stop().await.0.success());
        let folded = offsets(&scene.system).await;
        scene.acknowledges(run.pick(200, 1_000)).await;
        for (partition, (from, end)) in (0..).zip(folded.into_iter().zip(topic.end_offsets())) {
            if end - from > 2 && (partition == 0 || dice.random()) {
                let to = dice.random_range(from + 1..end);
                topic.cut(partition, to).await;
                expected.push((partition, from, to));
            }
        }
        let _aggregator = scene.system.aggregator(&[]).await;
        expected.sort_unstable();
        eventually("the gaps are recorded", async || {
            let gaps = gaps(&scene.system).await;
            assert!(gaps.iter().all(|gap| expected.contains(gap)), "{gaps:?} recorded of {expected:?}");
            (gaps == expected).then_some(())
        })
        .await;
    }
    assert!(expected.len() >= rounds, "nothing was cut");
    let _aggregator = scene.system.aggregator(&[]).await;
    scene.deltas(0..16, 50).await;

    let all = scene.crowd.finish().await;
    let acknowledged = all.event_ids.len() + scene.others.event_ids.len();
    let in_gap = |place: Receipt| {
        expected.iter().any(|&(partition, from, to)| place.partition == partition && (from..to).contains(&place.offset))
    };
    let (record, gone) = all.without(in_gap);
    assert!(!gone.is_empty(), "no acknowledged like is lost");
    let client = scene.api.client();
    record.wait_until_counted(&client).await;
    for click in &gone {
        let receipt = &click.acknowledged.receipt;
        assert_eq!(client.receipt(receipt).await["status"], "lost", "{receipt} in {expected:?}");
    }
    let step = record.receipts.len() / 500 + 1;
    for receipt in record.receipts.iter().step_by(step) {
        assert_eq!(client.receipt(receipt).await["status"], "counted", "{receipt} not in {expected:?}");
    }
    let outcome = super::scene::outcome(&record.and(scene.others), &scene.system, &scene.api, expected.len()).await;
    Outcome { acknowledged, ..outcome }
}

/// The topic is deleted and created again under the same name.
async fn recreated(run: Run, change: Recreated) -> Outcome {
    let (mut topic, system) = TestSystem::with_topic(PARTITIONS).await;
    let mut scene = Scene::on_topic(system, run, 10, 20).await;
    let mut aggregator = scene.system.aggregator(&[]).await;
    scene.deltas(0..16, 50).await;
    let Scene { system, api, crowd, others, _settings } = scene;
    let before = crowd.finish().await.and(others);
    assert_eq!(before.compare(&system, &api.client()).await, Differences::default(), "before it");
    let folded = offsets(&system).await;
    if !change.running {
        assert!(aggregator.stop().await.0.success());
    }
    topic.recreate().await;

    // Other users: the first ones' likes are counted already.
    let crowd = Crowd { first_user: 1_000, ..Crowd::new(run.seed + 1, 10, 5) }.start(&[api.client()]);
    let (crowd, mut after) = if change.longer {
        eventually_within(LIMIT, "the new log is longer in each partition", async || {
            topic.end_offsets().iter().zip(&folded).all(|(end, folded)| end > folded).then_some(())
        })
        .await;
        (Some(crowd), Record::default())
    } else {
        let after = crowd.finish().await;
        let ends = topic.end_offsets();
        assert!(ends.iter().zip(&folded).all(|(end, folded)| end < folded), "{ends:?} is not shorter than {folded:?}");
        (None, after)
    };
    stops(&system, &mut aggregator, change).await;
    assert_eq!(offsets(&system).await, folded, "{change:?}: nothing was skipped");
    let still = before.compare(&system, &api.client()).await;
    assert_eq!(still, Differences::default(), "{change:?}: nothing was counted");

    if change.rebuild {
        let rebuilt = system.command_within(LIMIT, &["rebuild", "--yes"]).await;
        assert!(rebuilt.status.success(), "{change:?}: {rebuilt:?}");
    } else {
        system.succeeds(&["offsets", "reset", "--all", "--to", "earliest", "--yes"]).await;
    }
    // After a restart it continues at once, otherwise at its next comparison of offsets.
    if !change.running {
        assert!(aggregator.stop().await.0.success());
        aggregator = system.aggregator(&[]).await;
    }
    if let Some(crowd) = crowd {
        after = crowd.finish().await;
    }
    folded_to_the_end(&system, &topic).await;
    assert_eq!(aggregator.process.status(), None, "{change:?}: the aggregator has exited");
    let acknowledged = before.event_ids.len() + after.event_ids.len();
    // Receipts of the deleted topic say nothing about this one.
    let before = if change.rebuild { Record::default() } else { Record { receipts: Vec::new(), ..before } };
    let outcome = super::scene::outcome(&before.and(after), &system, &api, 1).await;
    Outcome { acknowledged, ..outcome }
}

/// Waits until each partition has stopped, with a message that names the commands.
async fn stops(system: &TestSystem, aggregator: &mut TestService, change: Recreated) {
    eventually_within(LIMIT, "every partition has stopped", async || {
        // It was stopped, or has exited because the topic was missing.
        if aggregator.process.status().is_some() {
            *aggregator = system.start_aggregator(&[]);
        }
        // None until its admin port listens.
        aggregator.waiting_for().await?;
        (aggregator.metric("likes_stopped_partitions", "").await as i32 == PARTITIONS).then_some(())
    })
    .await;
    let log = aggregator.process.log();
    let why = if change.longer { "that was folded has the timestamp" } else { "and its log ends at" };
    for text in [why, "like-aggregator offsets reset", "like-aggregator rebuild"] {
        assert!(log.contains(text), "{change:?}: the log lacks {text}");
    }
}

async fn folded_to_the_end(system: &TestSystem, topic: &TestTopic) {
    eventually_within(LIMIT, "the new log is folded to its end", async || {
        (offsets(system).await == topic.end_offsets()).then_some(())
    })
    .await;
}

/// partition, from, to
async fn gaps(system: &TestSystem) -> Vec<(i32, i64, i64)> {
    let sql = "SELECT partition, from_offset, to_offset FROM log_gap ORDER BY 1, 2";
    system.database.rows(sql).await
}
