//! What limits a drain, measured alone: (a) consuming and parsing the log, (b) the same SQL fed
//! from memory, and (c) what it replaces, one autocommitted UPDATE per event.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use like_aggregator::apply::transaction::Store;
use like_aggregator::consume::consumer_config;
use like_aggregator::fold::{Batch, Dedup, Record};
use like_common::database::{DatabaseUrl, SCHEMA};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use sqlx::Connection;
use uuid::Uuid;

use super::{Figures, rounded};
use crate::aggregator::cpu;
use crate::backlog::{Backlog, Mode};
use crate::database::Database;
use crate::drain::{Place, set_up, sum};
use crate::figures;
use crate::generate::{Generator, product_id};

/// `BATCH_MAX_EVENTS`' default.
const BATCH: usize = 10_000;
/// `DEDUP_WINDOW`'s default.
const WINDOW: Duration = Duration::from_secs(48 * 3600);
const STUCK: Duration = Duration::from_secs(30);

/// (a): the service's own consumer settings, its parsing and its hashing, and nothing done with it.
pub fn consume(place: &Place, backlog: &Backlog) -> anyhow::Result<Vec<Figures>> {
    let own = std::process::id() as i32;
    let before = cpu(own).context("/proc")?;
    let (seconds, _) = read(place, backlog, |_| ())?;
    let used = cpu(own).context("/proc")? - before;
    let events = backlog.shape.events as f64;
    Ok(vec![figures! {
        "events_per_second": rounded(events / seconds),
        "seconds": rounded(seconds),
        "cpu_seconds_per_million": rounded(sum(used) / events * 1e6),
    }])
}

/// (b): the batches of that log, in memory before the clock starts, through the service's store.
pub async fn from_memory(place: &Place, backlog: &Backlog, mode: Mode) -> anyhow::Result<Vec<Figures>> {
    let mut batches = Vec::new();
    read(place, backlog, |batch| batches.push(batch))?;
    let name = format!("floor_{}", Uuid::now_v7().simple());
    let mut database = Database::create(&place.database_url, &name).await?;
    let applied = apply(place, backlog, mode, &batches, &mut database).await;
    database.remove().await?;
    let (seconds, cpu_seconds) = applied?;
    let events = backlog.shape.events as f64;
    Ok(vec![figures! {
        "mode": mode.name(),
        "events_per_second": rounded(events / seconds),
        "seconds": rounded(seconds),
        "cpu_seconds_per_million": rounded(cpu_seconds / events * 1e6),
    }])
}

/// Answers seconds, and seconds of this process's CPU.
async fn apply(
    place: &Place,
    backlog: &Backlog,
    mode: Mode,
    batches: &[Batch],
    database: &mut Database,
) -> anyhow::Result<(f64, f64)> {
    set_up(place, backlog, &database.url)?;
    let url = DatabaseUrl::from_str(&database.url).map_err(|error| anyhow!(error))?;
    let dedup = if mode.dedup().0 == "history" { Dedup::History(WINDOW) } else { Dedup::Batch };
    let mut store = Store::new(&url, SCHEMA, &backlog.topic, dedup);
    store.ping().await?;
    database.settle().await?;
    let own = std::process::id() as i32;
    let (start, before) = (Instant::now(), cpu(own).context("/proc")?);
    for batch in batches {
        store.apply(batch).await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = cpu(own).context("/proc")? - before;
    ensure!(database.offsets().await? == backlog.ends, "not all events were folded");
    ensure!(backlog.is_exact(database, mode.dedup().1, 0).await?, "wrong counts");
    Ok((seconds, sum(used)))
}

/// Reads the whole log into batches; answers the seconds from its first record to its last.
fn read(place: &Place, backlog: &Backlog, mut full: impl FnMut(Batch)) -> anyhow::Result<(f64, u64)> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &place.kafka).set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer = consumer_config(client, &backlog.topic).create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..backlog.partitions {
        list.add_partition_offset(&backlog.topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut batch, mut taken, mut started) = (Batch::default(), 0, None);
    let mut last = Instant::now();
    while taken < backlog.shape.events {
        let message = match consumer.poll(Duration::from_millis(50)) {
            None if last.elapsed() < STUCK => continue,
            None => bail!("no record for {} s", STUCK.as_secs()),
            Some(message) => message?,
        };
        started.get_or_insert_with(Instant::now);
        let (partition, offset) = (message.partition(), message.offset());
        let time = message.timestamp().to_millis().unwrap_or(-1);
        let record = Record { partition, offset, time, key: message.key(), value: message.payload() };
        // The log has no holes: a record's offset is the one expected.
        batch.push(&record, offset);
        taken += 1;
        if batch.is_full(BATCH) {
            full(std::mem::take(&mut batch));
            last = Instant::now();
        }
    }
    let seconds = started.context("an empty log")?.elapsed().as_secs_f64();
    if !batch.is_empty() {
        full(batch);
    }
    Ok((seconds, taken))
}

/// (c): the delta events of that log, each an UPDATE and a transaction of its own.
pub async fn one_by_one(place: &Place, backlog: &Backlog, events: usize) -> anyhow::Result<Vec<Figures>> {
    let name = format!("floor_{}", Uuid::now_v7().simple());
    let database = Database::create(&place.database_url, &name).await?;
    let counted = update_each(&database, backlog, events).await;
    database.remove().await?;
    let seconds = counted?;
    Ok(vec![figures! {
        "events": events,
        "events_per_second": rounded(events as f64 / seconds),
        "seconds": rounded(seconds),
    }])
}

async fn update_each(database: &Database, backlog: &Backlog, events: usize) -> anyhow::Result<f64> {
    let mut sql = sqlx::PgConnection::connect(&database.url).await?;
    let table = "CREATE TABLE likes_of (product_id text COLLATE \"C\" PRIMARY KEY, likes bigint NOT NULL)
                 WITH (fillfactor = 50)";
    sqlx::raw_sql(table).execute(&mut sql).await?;
    let products: Vec<_> = (0..backlog.shape.products).map(product_id).collect();
    sqlx::query("INSERT INTO likes_of SELECT unnest($1::text[]), 0").bind(&products).execute(&mut sql).await?;
    let start = Instant::now();
    for event in Generator::new(backlog.shape).take(events) {
        let delta: i64 = if event.liked { 1 } else { -1 };
        let query = sqlx::query("UPDATE likes_of SET likes = likes + $2 WHERE product_id = $1");
        query.bind(&products[event.product as usize]).bind(delta).execute(&mut sql).await?;
    }
    Ok(start.elapsed().as_secs_f64())
}
