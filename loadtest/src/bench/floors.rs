//! What limits a drain, each measured alone, in events per second.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use like_aggregator::consume::consumer_config;
use like_aggregator::fold::{Batch, Record};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::{checkpoint, drain};
use crate::backlog::{Backlog, Mode};
use crate::events::{Generator, product_id};
use crate::records::{self, PATIENCE, client};

/// The default of `BATCH_MAX_EVENTS`.
const BATCH: usize = 10_000;

/// (a) The service's own consumer settings, parsing and hashing, without a database.
pub fn consume(backlog: &Backlog) -> anyhow::Result<f64> {
    read(backlog, drop)
}

/// (b) The batches of the log, in memory before the clock starts, through the service's transaction.
pub async fn from_memory(backlog: &Backlog, mode: Mode) -> anyhow::Result<f64> {
    let mut batches = Vec::new();
    read(backlog, |batch| batches.push(batch))?;
    let system = drain::system(backlog).await;
    let mut store = records::store(&backlog.topic.name, &system.database, mode.dedup()).await?;
    store.ping().await?;
    checkpoint(&system.database.pool).await?;
    let start = Instant::now();
    records::apply(&mut store, &batches).await?;
    let seconds = start.elapsed().as_secs_f64();
    backlog.check(&system.database, mode).await?;
    Ok(backlog.shape.events as f64 / seconds)
}

/// Reads the whole log into batches; returns the rate from its first record to its last.
fn read(backlog: &Backlog, mut full: impl FnMut(Batch)) -> anyhow::Result<f64> {
    let consumer: BaseConsumer = consumer_config(client(&[]), &backlog.topic.name).create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..backlog.topic.partitions {
        list.add_partition_offset(&backlog.topic.name, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut batch, mut taken, mut started, mut last) = (Batch::default(), 0, None, Instant::now());
    while taken < backlog.shape.events {
        let message = match consumer.poll(Duration::from_millis(50)) {
            None if last.elapsed() < PATIENCE => continue,
            None => bail!("no record for {PATIENCE:?}"),
            Some(message) => message?,
        };
        started.get_or_insert_with(Instant::now);
        let (partition, offset) = (message.partition(), message.offset());
        let time = message.timestamp().to_millis().unwrap_or(-1);
        let record = Record { partition, offset, time, key: message.key(), value: message.payload() };
        // The log has no holes: a record's offset is the expected one.
        batch.push(&record, offset);
        taken += 1;
        if batch.is_full(BATCH) {
            full(std::mem::take(&mut batch));
            last = Instant::now();
        }
    }
    let seconds = started.context("the log is empty")?.elapsed().as_secs_f64();
    full(batch);
    Ok(taken as f64 / seconds)
}

/// (c) The first events of the log, each an UPDATE and a transaction.
pub async fn one_by_one(backlog: &Backlog, events: usize) -> anyhow::Result<f64> {
    let table = "CREATE TABLE naive (product_id text COLLATE \"C\" PRIMARY KEY, likes bigint NOT NULL)
                 WITH (fillfactor = 50)";
    let database = records::naive_database(table).await?;
    let mut sql = database.pool.acquire().await?;
    let products: Vec<_> = (0..backlog.shape.products).map(product_id).collect();
    sqlx::query("INSERT INTO naive SELECT unnest($1::text[]), 0").bind(&products).execute(&mut *sql).await?;
    let start = Instant::now();
    let mut updated = 0;
    for event in Generator::new(backlog.shape).take(events) {
        let delta: i64 = if event.liked { 1 } else { -1 };
        let query = sqlx::query("UPDATE naive SET likes = likes + $2 WHERE product_id = $1");
        let done = query.bind(&products[event.product as usize]).bind(delta).execute(&mut *sql).await?;
        updated += done.rows_affected();
    }
    ensure!(updated > 0, "no event was counted");
    Ok(updated as f64 / start.elapsed().as_secs_f64())
}
