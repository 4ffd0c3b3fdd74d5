//! What the fold saves: the same log, read in advance, counted by one UPDATE and transaction per
//! event, by one UPDATE per event in a transaction per batch, and by the service's transaction, once
//! with as little as the naive ways (delta events, duplicates dropped inside a batch only) and once
//! with likers and the history of event ids.

use std::time::{Duration, Instant};

use like_events::decode;
use like_testkit::TestSystem;

use super::{Finding, Lab};
use crate::backlog::{Backlog, Mode};
use crate::records::{Entry, apply, batches, naive_database, read_all, store};

const BATCH: usize = 10_000;
/// The naive ways get this long and are judged by how far they come.
const NAIVE_TIME: Duration = Duration::from_secs(4);
const LEAST_GAIN: f64 = 3.0;

const TABLE: &str = "CREATE TABLE naive (product_id text COLLATE \"C\" PRIMARY KEY, likes bigint NOT NULL)
                     WITH (fillfactor = 50)";
const ADD: &str = "INSERT INTO naive VALUES ($1, $2)
                   ON CONFLICT (product_id) DO UPDATE SET likes = naive.likes + excluded.likes";

pub async fn batch_beats_single_updates(lab: &Lab) -> anyhow::Result<Finding> {
    let deltas = Backlog::fill(1, lab.shape(Mode::BatchDelta)).await?;
    let users = Backlog::fill(1, lab.shape(Mode::HistoryUser)).await?;
    let log = read_all(&deltas.topic.name, 1)?;
    let (each, together) = (naive(&log, 1).await?, naive(&log, BATCH).await?);
    let (least, all) = (services(&deltas, Mode::BatchDelta).await?, services(&users, Mode::HistoryUser).await?);
    let measured = format!(
        "events a second as multiples of an UPDATE and a transaction each: UPDATEs in a transaction per {BATCH} {:.1}, \
         the fold doing as little {:.0}, with likers and history {:.0}",
        together / each,
        least / each,
        all / each
    );
    Ok(Finding { measured, holds: all >= LEAST_GAIN * each && all > together && least > together })
}

/// Events per second with a statement per event, `together` of them in a transaction.
async fn naive(log: &[Entry], together: usize) -> anyhow::Result<f64> {
    let database = naive_database(TABLE).await?;
    let mut sql = database.pool.acquire().await?;
    let (start, mut counted) = (Instant::now(), 0);
    for part in log.chunks(together) {
        if together > 1 {
            sqlx::query("BEGIN").execute(&mut *sql).await?;
        }
        for record in part.iter().take_while(|_| start.elapsed() < NAIVE_TIME) {
            let event = decode(record.key.as_deref(), Some(&record.value))?;
            let delta = if event.liked { 1_i64 } else { -1 };
            sqlx::query(ADD).bind(event.product_id.as_ref()).bind(delta).execute(&mut *sql).await?;
            counted += 1;
        }
        if together > 1 {
            sqlx::query("COMMIT").execute(&mut *sql).await?;
        }
        if start.elapsed() >= NAIVE_TIME {
            break;
        }
    }
    Ok(f64::from(counted) / start.elapsed().as_secs_f64())
}

/// Events per second with the service's own code, decoding included.
async fn services(backlog: &Backlog, mode: Mode) -> anyhow::Result<f64> {
    let log = read_all(&backlog.topic.name, 1)?;
    let system = TestSystem::set_up_on(&backlog.topic).await;
    let mut store = store(&backlog.topic.name, &system.database, mode.dedup()).await?;
    store.ping().await?;
    let start = Instant::now();
    apply(&mut store, &batches(&log, BATCH)?).await?;
    let seconds = start.elapsed().as_secs_f64();
    backlog.check(&system.database, mode).await?;
    Ok(backlog.shape.events as f64 / seconds)
}
