//! Shows what the fold saves: the same log, read beforehand, counted by one UPDATE and one
//! transaction per event, by one UPDATE per event in a transaction per batch, and by the services'
//! own store, once with as little as the naive ways (delta events, duplicates dropped inside a
//! batch only) and once with likers, transitions and the history of event ids.

use std::time::{Duration, Instant};

use anyhow::ensure;
use like_aggregator::fold::Dedup;
use like_events::decode;

use super::Finding;
use super::lab::{HISTORY, Lab, Topic, connect};
use super::records::{Entry, apply, batches};
use crate::generate::{EventIds, Generator, Shape};
use crate::log;

const EVENTS: u64 = 100_000;
const PRODUCTS: u32 = 1_000;
const USERS: u32 = 20_000;
const BATCH: usize = 10_000;
/// What is naive is given this long, and judged by how far it comes.
const NAIVE_TIME: Duration = Duration::from_secs(4);
const LEAST_GAIN: f64 = 3.0;

const TABLE: &str = "CREATE TABLE naive (product_id text COLLATE \"C\" PRIMARY KEY, likes bigint NOT NULL)
                     WITH (fillfactor = 50)";
const ADD: &str = "INSERT INTO naive VALUES ($1, $2)
                   ON CONFLICT (product_id) DO UPDATE SET likes = naive.likes + excluded.likes";

pub async fn a_batch_beats_single_updates(lab: &Lab) -> anyhow::Result<Finding> {
    let (deltas, deltas_log) = fill(lab, None).await?;
    let (users, users_log) = fill(lab, Some(USERS)).await?;
    let each = naive(lab, &deltas_log, 1).await?;
    let together = naive(lab, &deltas_log, BATCH).await?;
    let least = ours(lab, &deltas, &deltas_log, Dedup::Batch).await?;
    let all = ours(lab, &users, &users_log, HISTORY).await?;
    let measured = format!(
        "events a second as multiples of an UPDATE and a transaction each: UPDATEs in a transaction per {BATCH} {:.1}, \
         the fold doing as little {:.0}, with likers and history {:.0}",
        together / each,
        least / each,
        all / each
    );
    Ok(Finding { measured, holds: all >= LEAST_GAIN * each && all > together && least > together })
}

async fn fill(lab: &Lab, users: Option<u32>) -> anyhow::Result<(Topic, Vec<Entry>)> {
    let topic = lab.topic(1).await?;
    let shape =
        Shape { events: EVENTS, products: PRODUCTS, users, hot_percent: 0, event_ids: EventIds::V7, seed: lab.seed };
    log::fill(&lab.brokers, &topic.name, Generator::new(shape))?;
    let log = lab.read_all(&topic)?;
    Ok((topic, log))
}

/// Events a second with a statement per event, `together` of them in a transaction.
async fn naive(lab: &Lab, log: &[Entry], together: usize) -> anyhow::Result<f64> {
    let database = lab.database().await?;
    let mut sql = connect(&database.url).await?;
    sqlx::raw_sql(TABLE).execute(&mut sql).await?;
    let (start, mut counted) = (Instant::now(), 0);
    for part in log.chunks(together) {
        if together > 1 {
            sqlx::query("BEGIN").execute(&mut sql).await?;
        }
        for record in part.iter().take_while(|_| start.elapsed() < NAIVE_TIME) {
            let event = decode(record.key.as_deref(), Some(&record.value))?;
            let delta = if event.liked { 1_i64 } else { -1 };
            sqlx::query(ADD).bind(event.product_id.as_ref()).bind(delta).execute(&mut sql).await?;
            counted += 1;
        }
        if together > 1 {
            sqlx::query("COMMIT").execute(&mut sql).await?;
        }
        if start.elapsed() >= NAIVE_TIME {
            break;
        }
    }
    Ok(f64::from(counted) / start.elapsed().as_secs_f64())
}

/// Events a second with the services' own code, decoding included.
async fn ours(lab: &Lab, topic: &Topic, log: &[Entry], dedup: Dedup) -> anyhow::Result<f64> {
    let mut database = lab.set_up(topic).await?;
    let mut store = Lab::store(topic, &database, dedup)?;
    store.ping().await?;
    let start = Instant::now();
    apply(&mut store, &batches(log, BATCH)?).await?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(database.folded().await? == EVENTS as i64, "not all events were folded");
    Ok(EVENTS as f64 / seconds)
}
