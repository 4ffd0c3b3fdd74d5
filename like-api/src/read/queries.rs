//! The SQL of all reads: counts, a user's likes, rankings, likes over time, and the status of receipts. The tables are
//! like-aggregator's. Every query has a timeout.

use std::time::Duration;

use chrono::{DateTime, Utc};
use like_common::database::{is_transient, sqlstate};
use like_common::session::BEGIN;
use like_events::{ProductId, Receipt, UserId};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{Connection, FromRow, PgPool, Postgres};
use uuid::Uuid;

use crate::read::cursor::Cursor;
use crate::read::databases::{Place, Placed};
use crate::read::error::ReadError;
use crate::read::hours::Range;
use crate::read::pool::{READ_TIMEOUT, acquire};

/// Longest time of a query that reads much of a table. The server's own comes first.
const SCAN_TIMEOUT: Duration = Duration::from_secs(31);

/// One product of a read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CountKey {
    pub product: ProductId,
    /// The [`like_events::pair_key`] of the product and a known caller.
    pub pair: Option<Uuid>,
}

impl Placed for CountKey {
    fn place(&self) -> Place<'_> {
        Place::Of(&self.product)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Likes, at least 0.
    pub count: i64,
    /// When the count last changed; None: never liked.
    pub updated_at: Option<DateTime<Utc>>,
    /// Whether the caller likes it; false for an anonymous one.
    pub liked: bool,
}

/// A product's count that differs from the known one.
pub struct Change {
    /// The product's index in the query, from 0.
    pub place: usize,
    pub count: i64,
    pub updated_at: Option<DateTime<Utc>>,
}

/// One record of an event: the one that a receipt is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordOfEvent {
    pub receipt: Receipt,
    pub event_id: Uuid,
    /// Its timestamp.
    pub time: DateTime<Utc>,
}

impl Placed for RecordOfEvent {
    fn place(&self) -> Place<'_> {
        Place::At(self.receipt)
    }
}

/// The status of the event at a receipt's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptState {
    /// Folded, and included in the count.
    Counted,
    /// It broke a rule of the contract.
    DeadLetter,
    /// Gone from the log before it could be folded.
    Lost,
    /// Not folded yet. In an open topic the event exists only if the log reaches that far.
    Pending {
        /// The topic, while it is open.
        open_topic: Option<String>,
    },
    /// No such topic sequence or partition, or past the end of a closed topic.
    NotFound,
}

/// Returns the counts in the order of `keys`, all of one snapshot.
pub async fn counts(pool: &PgPool, keys: &[CountKey]) -> Result<Vec<Count>, ReadError> {
    let ids: Vec<&str> = keys.iter().map(|key| key.product.as_str()).collect();
    let pairs: Vec<Option<Uuid>> = keys.iter().map(|key| key.pair).collect();
    // greatest() skips null: a product without a row has 0.
    let sql = "SELECT greatest(c.like_count, 0), c.updated_at, coalesce(l.liked, false)
         FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS asked (product_id, pair_key, place)
         LEFT JOIN product_like_count c ON c.product_id = asked.product_id
         LEFT JOIN product_like l ON l.pair_key = asked.pair_key
         ORDER BY asked.place";
    let rows = rows(pool, || sqlx::query_as(sql).bind(&ids[..]).bind(&pairs[..])).await?;
    Ok(rows.into_iter().map(|(count, updated_at, liked)| Count { count, updated_at, liked }).collect())
}

/// Returns the products whose count or time differs from the known one (None and None: unknown).
/// Thousands of products are polled, so what hasn't changed is not sent.
pub async fn changes(
    pool: &PgPool,
    products: Vec<&str>,
    counts: Vec<Option<i64>>,
    times: Vec<Option<DateTime<Utc>>>,
) -> Result<Vec<Change>, ReadError> {
    let sql = "SELECT place, count, updated_at
         FROM (SELECT place, known_count, known_time, updated_at, greatest(like_count, 0) AS count
               FROM unnest($1::text[], $2::bigint[], $3::timestamptz[])
                    WITH ORDINALITY AS asked (product_id, known_count, known_time, place)
               LEFT JOIN product_like_count USING (product_id)) compared
         WHERE count IS DISTINCT FROM known_count OR updated_at IS DISTINCT FROM known_time";
    let rows = rows(pool, || sqlx::query_as(sql).bind(&products[..]).bind(&counts[..]).bind(&times[..])).await?;
    let change = |(place, count, updated_at): (i64, _, _)| Change { place: place as usize - 1, count, updated_at };
    Ok(rows.into_iter().map(change).collect())
}

/// Returns what products gained in single hours: the place of the range, the hour, the likes. Hours without a row gained
/// nothing; a day that is summed has the row of its first hour.
pub async fn hours(pool: &PgPool, ranges: &[Range]) -> Result<Vec<(usize, DateTime<Utc>, i64)>, ReadError> {
    let products: Vec<&str> = ranges.iter().map(|range| range.product.as_str()).collect();
    let (first, last): (Vec<_>, Vec<_>) = ranges.iter().map(Range::hours).unzip();
    // The key begins with the hour, so the rows are found by naming each.
    let sql = "SELECT place, hour, likes
         FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[])
              WITH ORDINALITY AS asked (product_id, first, last, place)
         CROSS JOIN LATERAL (
             SELECT hour, likes FROM product_like_hour h
             WHERE h.product_id = asked.product_id
               AND hour = ANY (ARRAY(SELECT generate_series(first, last, interval '1 hour')))) gained";
    let rows: Vec<(i64, _, _)> =
        rows(pool, || sqlx::query_as(sql).bind(&products[..]).bind(&first[..]).bind(&last[..])).await?;
    Ok(rows.into_iter().map(|(place, hour, likes)| (place as usize - 1, hour, likes)).collect())
}

/// Returns the products that have gained the most likes since an hour.
pub async fn gained_most(pool: &PgPool, since: DateTime<Utc>, limit: i64) -> Result<Vec<(String, i64)>, ReadError> {
    let sql = "SELECT product_id, sum(likes)::bigint FROM product_like_hour WHERE hour >= $1
               GROUP BY product_id HAVING sum(likes) > 0 ORDER BY sum(likes) DESC, product_id LIMIT $2";
    scan(pool, sqlx::query_as(sql).bind(since).bind(limit)).await
}

/// Returns the products with the most likes.
pub async fn liked_most(pool: &PgPool, limit: i64) -> Result<Vec<(String, i64)>, ReadError> {
    let sql = "SELECT product_id, like_count FROM product_like_count WHERE like_count > 0
               ORDER BY like_count DESC, product_id LIMIT $1";
    scan(pool, sqlx::query_as(sql).bind(limit)).await
}

/// Returns the status of receipts in their order, all of one snapshot.
pub async fn receipt_statuses(pool: &PgPool, receipts: &[Receipt]) -> Result<Vec<ReceiptState>, ReadError> {
    let sequences: Vec<i32> = receipts.iter().map(|receipt| receipt.sequence).collect();
    let partitions: Vec<i32> = receipts.iter().map(|receipt| receipt.partition).collect();
    let offsets: Vec<i64> = receipts.iter().map(|receipt| receipt.offset).collect();
    // Most receipts are pending: dead letters and gaps are looked up for the others only.
    let sql = "SELECT topic, partition < partitions, end_offsets IS NULL,
                end_offsets[least(partition, partitions - 1) + 1], folded,
                CASE WHEN folded THEN EXISTS (
                    SELECT FROM dead_letter d
                    WHERE d.topic = asked.topic AND d.partition = asked.partition AND d.record_offset = asked.at)
                  OR EXISTS (
                    SELECT FROM dead_letter_range d
                    WHERE d.topic = asked.topic AND d.partition = asked.partition AND d.bucket = asked.at / 10000
                      AND d.offsets @> asked.at)
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
         ORDER BY place";
    let rows = rows(pool, || sqlx::query_as(sql).bind(&sequences[..]).bind(&partitions[..]).bind(&offsets[..])).await?;
    Ok(rows.into_iter().zip(receipts).map(|(row, receipt)| receipt_status(row, receipt.offset)).collect())
}

/// Returns the user's likes after `after`, newest first. None: there is no index by which to find them, and the table, which may
/// be large, isn't read.
pub async fn user_likes(
    pool: &PgPool,
    user: &UserId,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Option<Vec<(String, Cursor)>>, ReadError> {
    let sql = "SELECT available, product_id, changed_at, pair_key
         FROM (SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('product_like_user_id') AND indisvalid))
              AS index (available)
         LEFT JOIN LATERAL (
             SELECT product_id, changed_at, pair_key FROM product_like
             WHERE index.available AND user_id = $1 AND liked
               AND ($2::timestamptz IS NULL OR (changed_at, pair_key) < ($2, $3))
             ORDER BY changed_at DESC, pair_key DESC LIMIT $4) page ON true
         ORDER BY changed_at DESC, pair_key DESC";
    let (time, key) = after.map(|after| (after.changed_at, after.pair_key)).unzip();
    let query = || sqlx::query_as(sql).bind(user.as_str()).bind(time).bind(key).bind(limit as i64);
    let rows: Vec<UserLikeRow> = rows(pool, query).await?;
    if rows.iter().any(|(available, ..)| !available) {
        return Ok(None);
    }
    // Without likes there is one row, of nulls.
    let like = |(_, product, changed_at, pair_key): UserLikeRow| {
        Some((product?, Cursor { changed_at: changed_at?, pair_key: pair_key? }))
    };
    Ok(Some(rows.into_iter().filter_map(like).collect()))
}

/// Whether there is an index; product, time and key of a like.
type UserLikeRow = (bool, Option<String>, Option<DateTime<Utc>>, Option<Uuid>);

/// Returns for each counted record whether it was dropped as a repeat, as far as the history knows: it holds the event with the
/// time of the record that counted. An earlier time within the window means that this record was dropped. With this record's
/// own time it is the one that counted, or a repeat within the same millisecond: which of the two isn't known.
pub async fn repeats(pool: &PgPool, records: &[RecordOfEvent]) -> Result<Vec<bool>, ReadError> {
    let ids: Vec<Uuid> = records.iter().map(|record| record.event_id).collect();
    let times: Vec<DateTime<Utc>> = records.iter().map(|record| record.time).collect();
    let sql = "SELECT coalesce(dedup = 'history', false)
                AND EXISTS (SELECT FROM event_handled h WHERE h.event_id = asked.event_id
                            AND h.record_time >= asked.time - dedup_window AND h.record_time < asked.time)
                AND NOT EXISTS (SELECT FROM event_handled h WHERE h.event_id = asked.event_id AND h.record_time = asked.time)
         FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY AS asked (event_id, time, place), fold
         ORDER BY place";
    let rows: Vec<(bool,)> = rows(pool, || sqlx::query_as(sql).bind(&ids[..]).bind(&times[..])).await?;
    Ok(rows.into_iter().map(|(repeat,)| repeat).collect())
}

/// Topic (None: no such sequence), whether it has the partition, whether it is open, the partition's end
/// offset if it is closed; whether the event is folded, a dead letter, in a gap.
type ReceiptRow = (Option<String>, Option<bool>, bool, Option<i64>, bool, bool, bool);

fn receipt_status(row: ReceiptRow, offset: i64) -> ReceiptState {
    let (Some(topic), Some(true), open, end, folded, dead, lost) = row else { return ReceiptState::NotFound };
    match (folded, open) {
        (false, _) if end.is_some_and(|end| end <= offset) => ReceiptState::NotFound,
        (true, _) if dead => ReceiptState::DeadLetter,
        (true, _) if lost => ReceiptState::Lost,
        (true, _) => ReceiptState::Counted,
        (false, true) => ReceiptState::Pending { open_topic: Some(topic) },
        (false, false) => ReceiptState::Pending { open_topic: None },
    }
}

/// Runs a query that reads much of a table, on one core of the server, for half a minute at most.
async fn scan<R>(pool: &PgPool, query: QueryAs<'_, Postgres, R, PgArguments>) -> Result<Vec<R>, ReadError>
where
    R: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let mut connection = acquire(pool).await.map_err(|error| ReadError::Unavailable(error.to_string()))?;
    let read = async {
        let mut transaction = connection.begin_with(BEGIN).await?;
        let settings =
            "SET LOCAL statement_timeout = '30s'; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off";
        sqlx::raw_sql(settings).execute(&mut *transaction).await?;
        // Planned anew each time, by what the table is like now.
        let rows = query.persistent(false).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    };
    let rows = match tokio::time::timeout(SCAN_TIMEOUT, read).await {
        Ok(rows) => rows.map_err(|error: sqlx::Error| unavailable(&error))?,
        Err(_) => return Err(ReadError::Unavailable(format!("no answer within {SCAN_TIMEOUT:?}"))),
    };
    connection.release();
    Ok(rows)
}

/// Runs a query. Every other read goes through here, which counts its wait and bounds its time.
async fn rows<'q, R>(
    pool: &PgPool,
    query: impl Fn() -> QueryAs<'q, Postgres, R, PgArguments>,
) -> Result<Vec<R>, ReadError>
where
    R: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let read = async {
        // Whatever keeps us from connecting is an outage: a server that starts, a changed password, a database gone.
        let mut connection = acquire(pool).await.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let mut rows = query().fetch_all(&mut *connection).await;
        if connection.recovers(&rows).await {
            rows = query().fetch_all(&mut *connection).await;
        }
        connection.release();
        rows.map_err(|error| unavailable(&error))
    };
    match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(ReadError::Unavailable(format!("no answer within {READ_TIMEOUT:?}"))),
    }
}

fn unavailable(error: &sqlx::Error) -> ReadError {
    // 42P01, undefined table: setup has not been run yet.
    if is_transient(error) || sqlstate(error).as_deref() == Some("42P01") {
        ReadError::Unavailable(error.to_string())
    } else {
        ReadError::Internal(error.to_string())
    }
}
