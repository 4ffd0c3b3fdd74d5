//! How like-aggregator counts once its tables are larger than every cache (`measure.sh` gives PostgreSQL a small one and
//! makes it bypass the kernel's). `product_like` and the history of event ids are filled first; then logs of new events are
//! folded, by kinds of ids and sizes of batches. After each, the sum of the counts and an `audit` must be right.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::ValueEnum;
use like_testkit::{TestSystem, TestTopic};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::drain::{folded, wal_bytes};
use super::{Bench, Row, checkpoint};
use crate::events::{Event, Generator, Ids, START_MS, Shape};
use crate::expected::{Expected, Repeats};
use crate::records::{Entry, publish};
use crate::row;

/// The default of `BATCH_MAX_EVENTS`, and half of it.
const BATCHES: [u32; 2] = [10_000, 5_000];
/// Between the event ids of two logs, in milliseconds.
const STEP_MS: u128 = 1_000_000;
const AUDIT_LIMIT: Duration = Duration::from_secs(1_800);

#[derive(clap::Args, Debug, Clone)]
pub struct GrowthOptions {
    /// rows in product_like, and as many in event_handled, before `growth` counts [default: 4000000; with --quick 500000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=50_000_000))]
    pub likes: Option<u64>,
    /// forms of event ids in `growth`, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "v7,v7-derived,random")]
    pub growth_ids: Vec<Ids>,
}

/// SQL: the id of event `n` of a history of `likes`. And the fillfactor of an index that has grown by such ids.
fn history(ids: Ids, likes: u64) -> (String, u32) {
    match ids {
        Ids::V7 | Ids::V7Derived => {
            let millis = format!("int8send({START_MS} - ({likes} - n) / 10)");
            let id = format!("encode(substr({millis}, 3) || substr(uuid_send(gen_random_uuid()), 7), ''hex'')::uuid");
            (id, 90)
        }
        Ids::Random => ("gen_random_uuid()".to_owned(), 70),
    }
}

pub async fn growth(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let likes = bench.growth.likes.unwrap_or(if bench.quick { 500_000 } else { 4_000_000 });
    let events = bench.backlog.events.unwrap_or(if bench.quick { 20_000 } else { 100_000 });
    let topic = TestTopic::create(bench.backlog.partitions).await;
    let mut system = TestSystem::set_up_on(&topic).await;
    system.set("RUST_LOG", "info");
    fill_likes(&system, likes, bench.backlog.products).await?;
    let (mut rows, mut counted) = (Vec::new(), likes as i64);
    for &ids in &bench.growth.growth_ids {
        fill_history(&system, likes, ids).await?;
        for batch in BATCHES {
            let step = rows.len() as u32;
            counted += write(bench, &topic, events, ids, step)?;
            let mut row = row! { "ids": ids.to_possible_value().expect("not hidden").get_name(), "rows_before": likes };
            row.extend(fold(&system, batch, i64::from(step) * events as i64, events as i64).await?);
            ensure!(system.likes().await == counted, "{} likes are counted, not {counted}", system.likes().await);
            let start = Instant::now();
            let audit = system.command_within(AUDIT_LIMIT, &["audit"]).await;
            ensure!(audit.status.success(), "audit: {audit:?}");
            row.extend(row! { "audit_seconds": start.elapsed().as_secs_f64() });
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Adds a log of users of its own, with ids that come after all others in time. Returns by how much it changes the counts.
fn write(bench: &Bench, topic: &TestTopic, events: u64, ids: Ids, step: u32) -> anyhow::Result<i64> {
    let (products, hot_percent) = (bench.backlog.products, bench.backlog.hot_percent);
    let users = (events / 10).max(1) as u32;
    let seed = bench.backlog.seed + u64::from(step);
    let mut expected = Expected::new(products);
    let own = |event: Event| {
        let id = Uuid::from_u128(event.id.as_u128().wrapping_add((u128::from(step) * STEP_MS) << 80));
        Event { id, user: event.user.map(|user| user + step * users), ..event }
    };
    let shape = Shape { events, products, users: Some(users), hot_percent, ids, seed };
    let events = Generator::new(shape).map(own);
    let records = events.inspect(|event| expected.add(event)).map(|event| Entry::from(&event));
    publish(&topic.name, &[("enable.idempotence", "true"), ("compression.type", "lz4")], records)?;
    Ok(expected.counts(Repeats::Dropped).iter().map(|count| *count.start()).sum())
}

/// Folds the log from `from` on, by one aggregator.
async fn fold(system: &TestSystem, batch: u32, from: i64, events: i64) -> anyhow::Result<Row> {
    checkpoint(&system.database.pool).await?;
    let (blocks, wal) = (blocks_read(system).await, wal_bytes(system).await);
    let mut services = [system.start_aggregator(&[("BATCH_MAX_EVENTS", &batch.to_string())])];
    let first = folded(system, &mut services, from + 1).await?;
    let start = Instant::now();
    let timed = folded(system, &mut services, from + events).await? - first;
    let seconds = start.elapsed().as_secs_f64();
    let [service] = &mut services;
    let batches = service.metric("likes_batch_events_count", "").await;
    ensure!(service.stop().await.0.success(), "like-aggregator failed at its end");
    // A session reports its reads at its end at the latest.
    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name LIKE 'like-aggregator%'";
    system.number_becomes(sessions, 0).await;
    let (after, wal) = (blocks_read(system).await, wal_bytes(system).await - wal);
    let tables = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
                  WHERE relkind = 'r' AND relnamespace = 'likes'::regnamespace";
    let setting = async |name: &str| -> Vec<String> { system.database.column(&format!("SHOW {name}")).await };
    let direct = setting("debug_io_direct").await[0].contains("data");
    Ok(row! {
        "tables_mib": system.number(tables).await >> 20,
        "shared_buffers": setting("shared_buffers").await[0],
        "page_cache": if direct { "bypassed" } else { "used" },
        "batch_max_events": batch,
        "per_second": timed as f64 / seconds,
        "events_per_batch": events as f64 / batches,
        "history_blocks_per_batch": (after.0 - blocks.0) as f64 / batches,
        "like_blocks_per_batch": (after.1 - blocks.1) as f64 / batches,
        "wal_bytes_per_event": wal as f64 / events as f64,
    })
}

/// Blocks of `event_handled` and of `product_like`, with their indexes, that were not in `shared_buffers`.
async fn blocks_read(system: &TestSystem) -> (i64, i64) {
    let sql = "SELECT coalesce(sum(heap_blks_read + idx_blks_read) FILTER (WHERE relname LIKE 'event\\_handled%'), 0)::bigint,
                      coalesce(sum(heap_blks_read + idx_blks_read) FILTER (WHERE relname = 'product_like'), 0)::bigint
               FROM pg_statio_user_tables WHERE schemaname = 'likes'";
    system.database.rows(sql).await[0]
}

/// Likes of as many users, for products by Zipf's law. The rows are in no order of their key, like those of a real table,
/// and the index is as full as one that has grown by them.
async fn fill_likes(system: &TestSystem, likes: u64, products: u32) -> anyhow::Result<()> {
    let fill = format!(
        "SET maintenance_work_mem = '256MB';
         ALTER TABLE product_like DROP CONSTRAINT product_like_pkey;
         INSERT INTO product_like (pair_key, changed_at, liked, product_id, user_id)
         SELECT encode(substr(sha256(p), 1, 4) || substr(sha256(p || u), 1, 12), 'hex')::uuid, now(), true, product, person
         FROM (SELECT product, person, int4send(octet_length(product)) || product::bytea AS p,
                      int4send(octet_length(person)) || person::bytea AS u
               FROM (SELECT 'sku-' || lpad(floor(power({products}, random()) - 1)::text, 8, '0') AS product,
                            'auth0|' || md5(n::text) AS person
                     FROM generate_series(1, {likes}) AS n) AS pairs) AS bytes;
         ALTER TABLE product_like ADD PRIMARY KEY (pair_key) WITH (fillfactor = 70);
         INSERT INTO product_like_count SELECT product_id, count(*), 0, now() FROM product_like GROUP BY product_id;
         INSERT INTO product_like_hour SELECT date_trunc('hour', now()), product_id, like_count FROM product_like_count"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&system.database.pool).await?;
    sqlx::query("VACUUM (ANALYZE) product_like, product_like_count, product_like_hour")
        .execute(&system.database.pool)
        .await?;
    Ok(())
}

/// Replaces the history by one window, whose index is built after its rows.
async fn fill_history(system: &TestSystem, likes: u64, ids: Ids) -> anyhow::Result<()> {
    let (id, fillfactor) = history(ids, likes);
    let fill = format!(
        "SET maintenance_work_mem = '256MB';
         DO $$
         DECLARE
             name text;
             bound text;
         BEGIN
             FOR name IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'event_handled'::regclass LOOP
                 EXECUTE format('DROP TABLE %s', name);
             END LOOP;
             PERFORM make_event_window(now(), '48h');
             SELECT w.name, pg_get_expr(relpartbound, oid) INTO name, bound
             FROM event_windows() w JOIN pg_class ON oid = w.name::regclass;
             EXECUTE format('ALTER TABLE event_handled DETACH PARTITION %s', name);
             EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %s_pkey', name, name);
             EXECUTE format('INSERT INTO %s SELECT {id}, now() FROM generate_series(1, {likes}) AS n', name);
             EXECUTE format('ALTER TABLE %s ADD PRIMARY KEY (event_id, record_time) WITH (fillfactor = {fillfactor})', name);
             EXECUTE format('ALTER TABLE event_handled ATTACH PARTITION %s %s', name, bound);
         END $$"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&system.database.pool).await?;
    Ok(())
}
