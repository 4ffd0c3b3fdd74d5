//! Shows why the offsets are rows: a consumer that commits its work in PostgreSQL and then its
//! offset in Kafka counts twice what it had committed when it crashed in between. A history of
//! event ids in the work's own transaction catches the repeat; so does the services' way, the
//! offset in that transaction, which refuses the stale batch as a whole.

use anyhow::{bail, ensure};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::fold::Dedup;
use rdkafka::Offset;
use rdkafka::consumer::{CommitMode, Consumer};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::Finding;
use super::lab::{HISTORY, Lab, Topic, connect};
use super::records::{batches, entry, event, next};

const EVENTS: usize = 100;
const BATCH: usize = 50;

const TABLES: &str = "CREATE TABLE naive (likes bigint NOT NULL); INSERT INTO naive VALUES (0);
                      CREATE TABLE history (event_id uuid PRIMARY KEY)";

pub async fn the_database_must_know(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = lab.topic(1).await?;
    let mut rng = lab.rng();
    // Delta events: nothing about a user tells that they were counted.
    let likes: Vec<_> = (0..EVENTS).map(|_| entry(&event(&mut rng, 0, None, true))).collect();
    lab.publish(&topic, &[("enable.idempotence", "true")], &likes)?;

    let (without, with) = (naive(lab, &topic, false).await?, naive(lab, &topic, true).await?);
    let (ours, batch_only) = (ours(lab, &topic, HISTORY).await?, ours(lab, &topic, Dedup::Batch).await?);
    let measured = format!(
        "{EVENTS} likes, a crash after the work of {BATCH} and before their offset: counted {without} without history, \
         {with} with it; by the services {ours} (DEDUP=history) and {batch_only} (batch), the stale batch refused"
    );
    let exact = EVENTS as i64;
    Ok(Finding { measured, holds: without == exact + BATCH as i64 && [with, ours, batch_only] == [exact; 3] })
}

/// What a consumer counts that crashes once, with its second batch committed in PostgreSQL and not
/// in Kafka, and is started again.
async fn naive(lab: &Lab, topic: &Topic, history: bool) -> anyhow::Result<i64> {
    let database = lab.database().await?;
    let mut sql = connect(&database.url).await?;
    sqlx::raw_sql(TABLES).execute(&mut sql).await?;
    let group = Lab::name();
    for crash_at in [Some(1), None] {
        let reader = lab.reader(topic, &group, "earliest", Offset::Stored)?;
        for number in 0.. {
            let mut ids = Vec::new();
            while ids.len() < BATCH {
                let Some(record) = next(&reader)? else { break };
                ids.push(like_events::decode(record.key.as_deref(), Some(&record.value))?.event_id.uuid());
            }
            if ids.is_empty() {
                break;
            }
            count(&mut sql, &ids, history).await?;
            if crash_at == Some(number) {
                break; // Dropped as it is, the consumer commits nothing.
            }
            reader.commit_consumer_state(CommitMode::Sync)?;
        }
    }
    Ok(sqlx::query_scalar("SELECT likes FROM naive").fetch_one(&mut sql).await?)
}

async fn count(sql: &mut PgConnection, ids: &[Uuid], history: bool) -> anyhow::Result<()> {
    let mut transaction = sql.begin().await?;
    let mut new = ids.len() as u64;
    if history {
        let remember = "INSERT INTO history SELECT * FROM unnest($1::uuid[]) ON CONFLICT DO NOTHING";
        new = sqlx::query(remember).bind(ids).execute(&mut *transaction).await?.rows_affected();
    }
    sqlx::query("UPDATE naive SET likes = likes + $1").bind(new as i64).execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// The same with the services' own store: the second batch is committed, its process crashes, and
/// who comes after it first believes what the crashed one did.
async fn ours(lab: &Lab, topic: &Topic, dedup: Dedup) -> anyhow::Result<i64> {
    let mut database = lab.set_up(topic).await?;
    let batches = batches(&lab.read_all(topic)?, BATCH)?;
    let mut crashed = Lab::store(topic, &database, dedup)?;
    for batch in &batches {
        crashed.apply(batch).await?;
    }
    drop(crashed);
    match Lab::store(topic, &database, dedup)?.apply(&batches[1]).await {
        Err(ApplyError::Fenced { .. }) => {}
        Err(error) => bail!(error),
        Ok(_) => bail!("a stale batch was applied"),
    }
    let counts = database.counts().await?;
    ensure!(counts.len() == 1, "one product was liked: {counts:?}");
    Ok(counts[0].count)
}
