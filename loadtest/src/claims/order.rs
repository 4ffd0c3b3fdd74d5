//! Shows why the product is the key: without one, a like and the unlike after it may stand in two
//! partitions, and whoever reads the second one first leaves the user with the wrong wish.

use std::collections::HashMap;

use anyhow::{Context, anyhow, ensure};
use rand::RngExt;
use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde::Deserialize;
use sqlx::PgConnection;

use super::Finding;
use super::lab::{Lab, Topic, connect};
use super::records::{entry, event, next};

const PARTITIONS: i32 = 4;
const USERS: u32 = 2_000;
const PRODUCTS: u32 = 50;

const TABLE: &str = "CREATE TABLE naive (user_id text PRIMARY KEY, liked boolean NOT NULL)";
const APPLY: &str = "INSERT INTO naive VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET liked = excluded.liked";

/// As much of an event as a naive consumer looks at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Naive {
    user_id: String,
    r#type: String,
}

pub async fn a_key_keeps_the_order(lab: &Lab) -> anyhow::Result<Finding> {
    let (without, with) = (wrong_wishes(lab, false).await?, wrong_wishes(lab, true).await?);
    let measured = format!(
        "of {USERS} users who changed their mind, read by two consumers, {without} end with the wrong wish without a key, {with} with it"
    );
    Ok(Finding { measured, holds: without > 0 && with == 0 })
}

/// Each user wishes one thing and then the other, for one product. How many are left with the
/// first of the two.
async fn wrong_wishes(lab: &Lab, with_key: bool) -> anyhow::Result<usize> {
    let topic = lab.topic(PARTITIONS).await?;
    let database = lab.database().await?;
    sqlx::raw_sql(TABLE).execute(&mut connect(&database.url).await?).await?;

    let (mut rng, mut records, mut wishes) = (lab.rng(), Vec::new(), HashMap::new());
    for user in 0..USERS {
        let (product, first) = (rng.random_range(0..PRODUCTS), rng.random::<bool>());
        for liked in [first, !first] {
            let mut record = entry(&event(&mut rng, product, Some(user), liked));
            if !with_key {
                record.key = None;
            }
            records.push(record);
        }
        wishes.insert(crate::generate::user_id(user), !first);
    }
    // Not sticky, so that without a key each record gets a partition by itself, as it would from
    // two replicas of an API or with a pause between like and unlike.
    lab.publish(&topic, &[("sticky.partitioning.linger.ms", "0"), ("enable.idempotence", "true")], &records)?;

    let (half, url) = (PARTITIONS / 2, &database.url);
    std::thread::scope(|scope| {
        let topic = &topic;
        let consumers = [0..half, half..PARTITIONS].map(|own| scope.spawn(move || consume(lab, topic, own, url)));
        consumers.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a consumer panicked"))?)
    })?;

    let mut sql = connect(&database.url).await?;
    let applied: Vec<(String, bool)> = sqlx::query_as("SELECT user_id, liked FROM naive").fetch_all(&mut sql).await?;
    ensure!(applied.len() == wishes.len(), "{} of {USERS} users were applied", applied.len());
    Ok(applied.iter().filter(|(user, liked)| wishes[user] != *liked).count())
}

/// Applies each event as it comes: the last one read wins.
fn consume(lab: &Lab, topic: &Topic, own: std::ops::Range<i32>, url: &str) -> anyhow::Result<()> {
    let settings =
        [("group.id", topic.name.as_str()), ("enable.auto.commit", "false"), ("enable.partition.eof", "true")];
    let consumer: BaseConsumer = lab.client(&settings).create()?;
    let (mut list, mut open) = (TopicPartitionList::new(), own.len());
    for partition in own {
        list.add_partition_offset(&topic.name, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sql: PgConnection = runtime.block_on(connect(url)).context("PostgreSQL")?;
    // It is the order that counts here, not how fast a disk is.
    runtime.block_on(sqlx::raw_sql("SET synchronous_commit TO off").execute(&mut sql))?;
    while open > 0 {
        let Some(record) = next(&consumer)? else {
            open -= 1;
            continue;
        };
        let event: Naive = serde_json::from_slice(&record.value)?;
        let apply = sqlx::query(APPLY).bind(event.user_id).bind(event.r#type == "LIKED");
        runtime.block_on(apply.execute(&mut sql))?;
    }
    Ok(())
}
