//! Why the offsets are rows: a consumer that commits its work in PostgreSQL and then its offset in
//! Kafka counts twice what it had committed when it crashed in between. A history of event ids in
//! the work's transaction recognises the repeat. So does the service: its offset is in that
//! transaction, and the stale batch is fenced as a whole.

use anyhow::{bail, ensure};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::fold::Dedup;
use like_testkit::{TestSystem, TestTopic};
use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Finding, Lab, event};
use crate::backlog::counts;
use crate::records::{Entry, HISTORY, batches, group, naive_database, next, publish, read_all, reader, store};

const EVENTS: usize = 100;
const BATCH: usize = 50;

const TABLES: &str = "CREATE TABLE naive (likes bigint NOT NULL); INSERT INTO naive VALUES (0);
                      CREATE TABLE history (event_id uuid PRIMARY KEY)";

pub async fn database_must_know(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = TestTopic::create(1).await;
    let mut rng = lab.rng();
    // Delta events: no user's state shows that they were counted.
    let likes: Vec<_> = (0..EVENTS).map(|_| Entry::from(&event(&mut rng, 0, None, true))).collect();
    publish(&topic.name, &[("enable.idempotence", "true")], likes)?;

    let (without, with) = (naive(&topic, false).await?, naive(&topic, true).await?);
    let (history, batch) = (services(&topic, HISTORY).await?, services(&topic, Dedup::Batch).await?);
    let measured = format!(
        "{EVENTS} likes, a crash after the work of {BATCH} and before their offset: counted {without} without history, \
         {with} with it; by the services {history} (DEDUP=history) and {batch} (batch), the stale batch refused"
    );
    let exact = EVENTS as i64;
    Ok(Finding { measured, holds: without == exact + BATCH as i64 && [with, history, batch] == [exact; 3] })
}

/// The count of a consumer that crashes with its second batch committed in PostgreSQL and not in
/// Kafka, and starts again.
async fn naive(topic: &TestTopic, history: bool) -> anyhow::Result<i64> {
    let database = naive_database(TABLES).await?;
    let group = group();
    for crash_at in [Some(1), None] {
        let reader = reader(&topic.name, [0], &group, "earliest", Offset::Stored)?;
        for number in 0.. {
            let mut ids = Vec::new();
            while ids.len() < BATCH {
                let Some(record) = next(&reader)? else { break };
                ids.push(like_events::decode(record.key.as_deref(), Some(&record.value))?.event_id.uuid());
            }
            if ids.is_empty() {
                break;
            }
            count(&database.pool, &ids, history).await?;
            if crash_at == Some(number) {
                break; // The consumer is dropped without a commit.
            }
            reader.commit_consumer_state(CommitMode::Sync)?;
        }
    }
    Ok(sqlx::query_scalar("SELECT likes FROM naive").fetch_one(&database.pool).await?)
}

async fn count(pool: &PgPool, ids: &[Uuid], history: bool) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await?;
    let mut new = ids.len() as u64;
    if history {
        let remember = "INSERT INTO history SELECT * FROM unnest($1::uuid[]) ON CONFLICT DO NOTHING";
        new = sqlx::query(remember).bind(ids).execute(&mut *transaction).await?.rows_affected();
    }
    sqlx::query("UPDATE naive SET likes = likes + $1").bind(new as i64).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// The same with the service's transaction: the process that comes after the crash applies the second
/// batch again.
async fn services(topic: &TestTopic, dedup: Dedup) -> anyhow::Result<i64> {
    let system = TestSystem::set_up_on(topic).await;
    let batches = batches(&read_all(&topic.name, 1)?, BATCH)?;
    let mut crashed = store(&topic.name, &system.database, dedup).await?;
    for batch in &batches {
        crashed.apply(batch).await?;
    }
    drop(crashed);
    match store(&topic.name, &system.database, dedup).await?.apply(&batches[1]).await {
        Err(ApplyError::Fenced { .. }) => {}
        Err(error) => bail!(error),
        Ok(_) => bail!("a stale batch was applied"),
    }
    let counts = counts(&system.database).await?;
    ensure!(counts.len() == 1, "one product was liked: {counts:?}");
    Ok(counts[0].1)
}
