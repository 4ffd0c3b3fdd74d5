//! What growing a topic does: the partitioner sends part of the keys elsewhere (half of them when the
//! number doubles), so a product's events are in two partitions without an order. And what the
//! services do then: like-api refuses likes, like-aggregator exits.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::ensure;
use like_testkit::{TestService, TestSystem, TestTopic, eventually};
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::{Finding, Lab, event};
use crate::records::{Entry, client, publish, read_all};

const BEFORE: i32 = 4;
const AFTER: i32 = 8;
const PRODUCTS: u32 = 1_000;
/// What both services say of a topic that has grown.
const REASON: &str = "has 8 partitions and its layout says 4";

pub async fn growing_remaps_keys(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = TestTopic::create(BEFORE).await;
    let system = TestSystem::set_up_on(&topic).await;
    let mut rng = lab.rng();
    let likes: Vec<_> = (0..PRODUCTS).map(|product| Entry::from(&event(&mut rng, product, Some(0), true))).collect();
    publish(&topic.name, &[], likes.clone())?;
    let partition_of = |record: Entry| (record.key, record.partition);
    let before: HashMap<_, _> = read_all(&topic.name, BEFORE)?.into_iter().map(partition_of).collect();

    let taken = like(&system.api(&[]).await).await?;
    grow(&topic).await?;
    let from = read_all(&topic.name, AFTER)?.len();
    publish(&topic.name, &[], likes)?;
    let mut records = read_all(&topic.name, AFTER)?;
    ensure!(records.len() - from == PRODUCTS as usize, "{} of {PRODUCTS} likes are new", records.len() - from);
    // By time, the last partition of a key is its new one.
    records.sort_by_key(|record| record.time);
    let moved = records[from..].iter().filter(|record| before[&record.key] != record.partition).count();
    let share = moved as f64 / f64::from(PRODUCTS);

    let api = system.start_api(&[]);
    eventually("like-api names the new partitions", async || {
        api.waiting_for().await.filter(|conditions| conditions.to_string().contains(REASON))
    })
    .await;
    let refused = like(&api).await?;
    let mut aggregator = system.start_aggregator(&[]);
    let status = aggregator.process.ended().await;
    ensure!(aggregator.process.log().contains(REASON), "no reason in the log: {}", aggregator.process.log());
    let measured = format!(
        "{BEFORE} to {AFTER} partitions: {:.0} % of {PRODUCTS} keys go elsewhere; like-api answers {taken} before, \
         {refused} after; like-aggregator ends with {status}, both name the reason",
        share * 100.0
    );
    Ok(Finding { measured, holds: (0.4..0.6).contains(&share) && taken == 202 && refused == 503 && !status.success() })
}

async fn like(api: &TestService) -> anyhow::Result<u16> {
    let request = api.http.put(format!("{}/v1/products/sku/like", api.url)).header("X-User-Id", "u");
    Ok(request.send().await?.status().as_u16())
}

/// Gives the topic more partitions and waits until a new client sees them.
async fn grow(topic: &TestTopic) -> anyhow::Result<()> {
    topic.grow(AFTER as usize).await;
    let client: BaseConsumer = client(&[]).create()?;
    eventually("the new partitions have leaders", async || {
        let metadata = client.fetch_metadata(Some(&topic.name), Duration::from_secs(5)).ok()?;
        let partitions = metadata.topics().first()?.partitions();
        let led = partitions.iter().all(|partition| partition.leader() >= 0);
        (partitions.len() == AFTER as usize && led).then_some(())
    })
    .await;
    Ok(())
}
