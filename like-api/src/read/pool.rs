//! All SQL of this service: counts, and where a receipt's event stands. Reads only; the tables are
//! like-aggregator's. Every call is bounded in time, since a reader would rather be told.

use std::time::Duration;

use chrono::{DateTime, Utc};
use like_common::database::{DatabaseSettings, SCHEMA, is_transient, sqlstate};
use like_events::{ProductId, Receipt};
use sqlx::postgres::{PgArguments, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, PgPool, Postgres, Row};
use uuid::Uuid;

use crate::metrics::pool::acquire;
use crate::read::error::ReadError;

/// Enough to keep several cores of PostgreSQL busy with look-ups by primary key.
const CONNECTIONS: u32 = 8;
/// Longest wait for a connection, a new one included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an answer, the connection included.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection idle for longer is asked whether it is still there before a request relies on it.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// Connects when needed; PostgreSQL needn't be there.
pub fn pool(settings: &DatabaseSettings) -> PgPool {
    // The server gives up as well, or what nobody waits for any more would hold its connection.
    let limit = READ_TIMEOUT.as_millis().to_string();
    let options = settings.database_url.connect_options(SCHEMA, "like-api").options([("statement_timeout", limit)]);
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

/// What a reader wants to know of one product.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Its count.
    pub product: ProductId,
    /// The [`like_events::pair_key`] of it and the reader, if that is a known one.
    pub pair: Option<Uuid>,
}

/// A product's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Likes, at least 0.
    pub count: i64,
    /// When that changed last; None: never liked.
    pub updated_at: Option<DateTime<Utc>>,
    /// Whether the reader likes it; false for one who isn't known.
    pub liked: bool,
}

/// A product's count that is another than the one that was known.
pub struct Change {
    /// The product's place among those asked for, from 0.
    pub place: usize,
    /// Likes, at least 0.
    pub count: i64,
    /// When that changed last; None: never liked.
    pub updated_at: Option<DateTime<Utc>>,
}

/// What is known of the event at a receipt's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Folded, and in the count.
    Counted,
    /// It broke a rule of the contract.
    DeadLetter,
    /// Gone from the log before it could be folded.
    Lost,
    /// Not folded yet. In an open topic it is there only if the log reaches that far.
    Pending {
        /// The topic, while it is open.
        open_topic: Option<String>,
    },
    /// No topic has that sequence, no such partition, or beyond the end of a closed topic.
    Nowhere,
}

/// The counts asked for, in their order and of one moment.
pub async fn counts(pool: &PgPool, asked: &[Asked]) -> Result<Vec<Count>, ReadError> {
    let ids: Vec<&str> = asked.iter().map(|asked| asked.product.as_str()).collect();
    let pairs: Vec<Option<Uuid>> = asked.iter().map(|asked| asked.pair).collect();
    let query = sqlx::query(
        "SELECT greatest(c.like_count, 0), c.updated_at, coalesce(l.liked, false)
         FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS asked (product_id, pair_key, place)
         LEFT JOIN product_like_count c ON c.product_id = asked.product_id
         LEFT JOIN product_like l ON l.pair_key = asked.pair_key
         ORDER BY asked.place",
    );
    let query = query.bind(ids).bind(pairs);
    let rows = rows(pool, query).await?;
    let count = |row: PgRow| {
        // greatest() skips null: a product without a row has 0.
        Ok(Count { count: row.try_get(0)?, updated_at: row.try_get(1)?, liked: row.try_get(2)? })
    };
    rows.into_iter().map(count).collect::<sqlx::Result<_>>().map_err(|error| unavailable(&error))
}

/// Those of `products` of which something else is known than this count and time (None and None:
/// nothing). Thousands are asked for again and again: what hasn't changed is not sent.
pub async fn changes(
    pool: &PgPool,
    products: Vec<&str>,
    counts: Vec<Option<i64>>,
    times: Vec<Option<DateTime<Utc>>>,
) -> Result<Vec<Change>, ReadError> {
    let query = sqlx::query(
        "SELECT place, count, updated_at
         FROM (SELECT place, known_count, known_time, updated_at, greatest(like_count, 0) AS count
               FROM unnest($1::text[], $2::bigint[], $3::timestamptz[])
                    WITH ORDINALITY AS asked (product_id, known_count, known_time, place)
               LEFT JOIN product_like_count USING (product_id)) compared
         WHERE count IS DISTINCT FROM known_count OR updated_at IS DISTINCT FROM known_time",
    );
    let rows = rows(pool, query.bind(products).bind(counts).bind(times)).await?;
    let change = |row: PgRow| {
        let place: i64 = row.try_get(0)?;
        Ok(Change { place: place as usize - 1, count: row.try_get(1)?, updated_at: row.try_get(2)? })
    };
    rows.into_iter().map(change).collect::<sqlx::Result<_>>().map_err(|error| unavailable(&error))
}

/// Where the events of receipts stand, in their order, from one statement: its parts are of one moment.
pub async fn standings(pool: &PgPool, receipts: &[Receipt]) -> Result<Vec<Standing>, ReadError> {
    let sequences: Vec<i32> = receipts.iter().map(|receipt| receipt.sequence).collect();
    let partitions: Vec<i32> = receipts.iter().map(|receipt| receipt.partition).collect();
    let offsets: Vec<i64> = receipts.iter().map(|receipt| receipt.offset).collect();
    // Most of those asked for are pending: only for the others is it worth looking further.
    let query = sqlx::query(
        "SELECT topic, partition < partitions, end_offsets IS NULL,
                end_offsets[least(partition, partitions - 1) + 1], folded,
                CASE WHEN folded THEN EXISTS (
                    SELECT FROM dead_letter d
                    WHERE d.topic = asked.topic AND d.partition = asked.partition AND d.record_offset = asked.at)
                ELSE false END,
                CASE WHEN folded THEN EXISTS (
                    SELECT FROM log_gap g
                    WHERE g.topic = asked.topic AND g.partition = asked.partition
                      AND g.from_offset <= asked.at AND asked.at < g.to_offset)
                ELSE false END
         FROM (SELECT a.place, a.partition, a.at, t.topic, t.partitions, t.end_offsets,
                      coalesce(o.next_offset > a.at, false) AS folded
               FROM unnest($1::integer[], $2::integer[], $3::bigint[]) WITH ORDINALITY AS a (sequence, partition, at, place)
               LEFT JOIN topic_layout t ON t.sequence = a.sequence
               LEFT JOIN kafka_offset o ON o.topic = t.topic AND o.partition = a.partition) asked
         ORDER BY place",
    );
    let query = query.bind(sequences).bind(partitions).bind(offsets);
    let rows = rows(pool, query).await?;
    let standings = rows.iter().zip(receipts).map(|(row, receipt)| standing(row, receipt.offset));
    standings.collect::<sqlx::Result<_>>().map_err(|error| unavailable(&error))
}

fn standing(row: &PgRow, offset: i64) -> sqlx::Result<Standing> {
    let Some(topic) = row.try_get(0)? else { return Ok(Standing::Nowhere) };
    let (partition_exists, open): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
    let end: Option<i64> = row.try_get(3)?;
    let (folded, dead, lost): (bool, bool, bool) = (row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
    let closed_before = end.is_some_and(|end| end <= offset);
    Ok(match (folded, open) {
        _ if !partition_exists || (!folded && closed_before) => Standing::Nowhere,
        (true, _) if dead => Standing::DeadLetter,
        (true, _) if lost => Standing::Lost,
        (true, _) => Standing::Counted,
        (false, true) => Standing::Pending { open_topic: Some(topic) },
        (false, false) => Standing::Pending { open_topic: None },
    })
}

/// Every read goes through here: its wait for a connection is counted, and all of it is bounded.
async fn rows(pool: &PgPool, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, ReadError> {
    let read = async {
        let mut connection = acquire(pool).await?;
        let rows = query.fetch_all(&mut *connection).await;
        connection.give_back();
        rows
    };
    match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(result) => result.map_err(|error| unavailable(&error)),
        Err(_) => Err(ReadError::Unavailable(format!("no answer within {READ_TIMEOUT:?}"))),
    }
}

fn unavailable(error: &sqlx::Error) -> ReadError {
    // 42P01, no such table: setup has not been run yet.
    if is_transient(error) || sqlstate(error).as_deref() == Some("42P01") {
        ReadError::Unavailable(error.to_string())
    } else {
        ReadError::Internal(error.to_string())
    }
}
