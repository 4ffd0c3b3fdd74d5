//! A rebalance while fetching is paused: the partitions that stay are fetched again.

use crate::common::{LOCK_OFFSETS, owns, publish, set_up, users};
use like_testkit::{TestService, until};

const PARTITIONS: i32 = 4;

fn revocations(aggregator: &TestService) -> usize {
    aggregator.process.log().matches("partitions revoked").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_during_revocation_resumes_fetching() {
    let (topic, system) = set_up(PARTITIONS).await;
    // After a first batch only a full one is applied, so the test knows what is in flight.
    let settings = [("BATCH_MAX_EVENTS", "100"), ("BATCH_MAX_WAIT", "1h"), ("APPLY_LANES", "1")];
    let first = system.aggregator(&settings).await;
    owns(&first, PARTITIONS).await;
    publish(&topic, 0, users("opening", 1));
    system.folded(1).await;
    // A second member shows which partitions the group takes from the first.
    let mut second = system.aggregator(&settings).await;
    let stay = owns(&first, 2).await;
    let goes = (0..PARTITIONS).find(|partition| !stay.contains(partition)).unwrap();
    second.process.terminate();
    second.process.ended().await;
    owns(&first, PARTITIONS).await;

    // One batch in flight and the next one full, both of a partition that will be revoked.
    let lock = system.database.lock(LOCK_OFFSETS).await;
    publish(&topic, goes, users("goes", 200));
    first.process.says("fetching paused").await;
    for &partition in &stay {
        publish(&topic, partition, users("stays", 50));
    }
    let before = revocations(&first);
    let second = system.start_aggregator(&settings);
    until("revoked", async || revocations(&first) > before).await;
    // The batch commits while the first waits for it before it gives the partitions back.
    lock.rollback().await.unwrap();
    assert_eq!(owns(&first, 2).await, stay, "this test shows nothing otherwise");
    system.folded(301).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(first.metric("likes_fences_total", "").await as u32, 0, "it committed before the new owner read");
    drop(second);
}
