//! A fifth of all records breaks the contract, and aggregators are killed meanwhile: each such record becomes a dead
//! letter with the right reason, and its neighbours count.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use like_events::topic::MAX_VALUE_BYTES;
use like_testkit::{TestSystem, TestTopic};
use rand::RngExt;
use rand::rngs::StdRng;

use super::scene::Scene;
use crate::{Outcome, Run, deltas};

const PARTITIONS: i32 = 8;
/// Valid records per invalid one.
const GOOD: usize = 4;
/// A valid event of a product that the crowd likes.
const VALID: &str = r#"{"eventId":"0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","type":"LIKED","productId":"product-1","userId":"user-1","occurredAt":"2026-11-22T10:00:00.123Z"}"#;

/// Counts by reason.
type Counts = BTreeMap<&'static str, i64>;

pub async fn garbage(run: Run) -> Outcome {
    let (kills, piece) = run.pick((3, 400), (10, 2_000));
    let mut dice = run.dice(6);
    let (topic, system) = TestSystem::with_topic(PARTITIONS).await;
    let mut scene = Scene::on_topic(system, run, run.pick(10, 20), 20).await;
    scene.system.set("BATCH_MAX_EVENTS", "100");
    let mut published = Counts::new();
    let mut aggregator = scene.system.start_aggregator(&[]);
    for _ in 0..kills {
        let (clicks, garbage) = (scene.crowd.acknowledged(), published.values().sum::<i64>() as usize);
        let due = ((clicks + scene.others.event_ids.len() + piece) / GOOD).saturating_sub(garbage);
        let kafka = like_testkit::kafka();
        let product = format!("product-{}", dice.random_range(0..20));
        let more = deltas::publish(&kafka, &topic.name, &product, piece, 1);
        let (more, ()) = tokio::join!(more, publish(&topic, due, &mut dice, &mut published));
        scene.others = scene.others.and(more);
        aggregator.wait_until_ready().await;
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..500))).await;
        aggregator.process.kill();
        aggregator.process.ended().await;
        aggregator = scene.system.start_aggregator(&[]);
    }
    aggregator.wait_until_ready().await;
    let record = scene.crowd.finish().await.and(scene.others);
    let good = record.event_ids.len();
    publish(&topic, (good / GOOD).saturating_sub(published.values().sum::<i64>() as usize), &mut dice, &mut published)
        .await;
    topic.flush();
    scene.system.folded(topic.end_offsets().iter().sum()).await;

    let sql = "SELECT split_part(reason, ':', 1), count(*) FROM dead_letter GROUP BY 1";
    let kept: Vec<(String, i64)> = scene.system.database.rows(sql).await;
    let garbage: i64 = published.values().sum();
    assert!(garbage as usize >= good / GOOD, "{garbage} invalid records, {good} valid ones");
    let kept: BTreeMap<_, _> = kept.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    let mut outcome = super::scene::outcome(&record, &scene.system, &scene.api, kills + garbage as usize).await;
    for reason in published.keys().chain(kept.keys()).collect::<BTreeSet<_>>() {
        let of = |counts: &BTreeMap<&str, i64>| counts.get(reason).copied().unwrap_or_default();
        let missing = of(&published) - of(&kept);
        if missing != 0 {
            eprintln!("dead letters for {reason}: {} of {}", of(&kept), of(&published));
        }
        outcome.differences.lost += missing.max(0) as usize;
        outcome.differences.doubled += (-missing).max(0) as usize;
    }
    outcome
}

/// Publishes `count` invalid records to random partitions.
async fn publish(topic: &TestTopic, count: usize, dice: &mut StdRng, published: &mut Counts) {
    let changed = |from: &str, to: &str| VALID.replacen(from, to, 1).into_bytes();
    for n in 0..count {
        let product: Option<&[u8]> = Some(b"product-1");
        let mut value = VALID.as_bytes().to_vec();
        let (reason, key, value) = match dice.random_range(0..12) {
            0 => {
                value[dice.random_range(0..VALID.len())] = 0xff;
                ("not_utf8", product, Some(value))
            }
            1 => ("not_json", product, Some(VALID.as_bytes()[..dice.random_range(0..VALID.len())].to_vec())),
            2 => ("not_json", product, Some(dice.random::<u64>().to_string().into_bytes())),
            3 => ("field_missing", product, Some(changed("eventId", "eventID"))),
            4 => ("field_missing", product, Some(changed("occurredAt", "at"))),
            5 => ("field_type", product, Some(changed(r#""user-1""#, "7"))),
            6 => ("field_invalid", product, Some(changed("0197", "{0197"))),
            7 => ("field_invalid", product, Some(changed("user-1", "user 1"))),
            8 => ("key_mismatch", Some(&b"product-2"[..]), Some(value)),
            9 => ("key_missing", None, Some(value)),
            10 => ("tombstone", product, None),
            _ => {
                value.resize(MAX_VALUE_BYTES + dice.random_range(1..100), b' ');
                ("too_large", product, Some(value))
            }
        };
        topic.publish(Some(dice.random_range(0..PARTITIONS)), key, value.as_deref());
        *published.entry(reason).or_default() += 1;
        if n % 20 == 0 {
            tokio::task::yield_now().await;
        }
    }
}
