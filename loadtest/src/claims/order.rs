//! Why the product is the key: without one, a like and the unlike after it may be in two partitions,
//! and a consumer that reads the second one first leaves the user in the wrong state.

use std::collections::HashMap;

use anyhow::{Context, anyhow, ensure};
use like_testkit::TestTopic;
use rand::RngExt;
use rdkafka::Offset;
use serde::Deserialize;
use sqlx::PgConnection;

use super::{Finding, Lab, event};
use crate::records::{Entry, connect, group, naive_database, next, publish, reader};

const PARTITIONS: i32 = 4;
const USERS: u32 = 2_000;
const PRODUCTS: u32 = 50;

const TABLE: &str = "CREATE TABLE naive (user_id text PRIMARY KEY, liked boolean NOT NULL)";
const APPLY: &str = "INSERT INTO naive VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET liked = excluded.liked";

/// The part of an event that a naive consumer reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Naive {
    user_id: String,
    r#type: String,
}

pub async fn key_keeps_the_order(lab: &Lab) -> anyhow::Result<Finding> {
    let (without, with) = (wrong_states(lab, false).await?, wrong_states(lab, true).await?);
    let measured = format!(
        "of {USERS} users who changed their mind, read by two consumers, {without} end in the wrong state without a key, {with} with it"
    );
    Ok(Finding { measured, holds: without > 0 && with == 0 })
}

/// Each user likes and unlikes one product, or the reverse. Returns how many end in the first state.
async fn wrong_states(lab: &Lab, with_key: bool) -> anyhow::Result<usize> {
    let topic = TestTopic::create(PARTITIONS).await;
    let database = naive_database(TABLE).await?;

    let (mut rng, mut records, mut desired) = (lab.rng(), Vec::new(), HashMap::new());
    for user in 0..USERS {
        let (product, first) = (rng.random_range(0..PRODUCTS), rng.random::<bool>());
        for liked in [first, !first] {
            let mut record = Entry::from(&event(&mut rng, product, Some(user), liked));
            if !with_key {
                record.key = None;
            }
            records.push(record);
        }
        desired.insert(crate::events::user_id(user), !first);
    }
    // Not sticky, so that without a key each record gets its own partition, as from two replicas of an
    // API or with a pause between like and unlike.
    publish(&topic.name, &[("sticky.partitioning.linger.ms", "0"), ("enable.idempotence", "true")], records)?;

    let (half, url) = (PARTITIONS / 2, &database.url);
    std::thread::scope(|scope| {
        let topic = &topic;
        let consumers = [0..half, half..PARTITIONS].map(|own| scope.spawn(move || consume(topic, own, url)));
        consumers.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a consumer panicked"))?)
    })?;

    let applied: Vec<(String, bool)> =
        sqlx::query_as("SELECT user_id, liked FROM naive").fetch_all(&database.pool).await?;
    ensure!(applied.len() == desired.len(), "{} of {USERS} users were applied", applied.len());
    Ok(applied.iter().filter(|(user, liked)| desired[user] != *liked).count())
}

/// Applies each event as it is read: the last one wins.
fn consume(topic: &TestTopic, own: std::ops::Range<i32>, url: &str) -> anyhow::Result<()> {
    let mut open = own.len();
    let consumer = reader(&topic.name, own, &group(), "error", Offset::Beginning)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sql: PgConnection = runtime.block_on(connect(url)).context("PostgreSQL")?;
    // The order matters here, not the disk's speed.
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
