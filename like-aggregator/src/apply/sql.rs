//! The statements of a batch, in the order in which they are sent. Their number doesn't depend on the number of events.

use std::time::Duration;

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::error::ApplyError;
use crate::fold::{Batch, Changes, DeadLetter, Dedup, FOLD_VERSION, Fold, Millis};
use crate::schema::fold_rules::FoldRules;
use crate::topic::active;

/// Dead letters of a partition and reason that are kept whole. With 64 KiB each they take 64 MiB at most.
const DEAD_LETTERS_KEPT: i64 = 1_000;

/// A row of [`active::FOLD_AND_ACTIVE`].
type FoldAndActive = (i32, Option<String>, Option<i64>, Option<Vec<i64>>, bool);

pub(super) struct Statements<'a> {
    pub(super) connection: &'a mut PgConnection,
    pub(super) topic: &'a str,
    pub(super) sent: u64,
}

impl Statements<'_> {
    /// Locks the offsets of `moves` (partition, expected offset, next offset) and compares them. Then reads the fold version,
    /// the fold settings and the active topic by a second statement, since a statement that waits for a lock sees the state
    /// before its wait.
    pub(super) async fn fence(&mut self, moves: &[(i32, i64, i64)], own: Dedup) -> Result<(), ApplyError> {
        let partitions: Vec<i32> = moves.iter().map(|(partition, ..)| *partition).collect();
        let lock = "SELECT partition, next_offset FROM kafka_offset
                    WHERE topic = $1 AND partition = ANY($2) ORDER BY partition FOR UPDATE";
        let rows: Vec<(i32, i64)> =
            sqlx::query_as(lock).bind(self.topic).bind(&partitions).fetch_all(&mut *self.connection).await?;
        let found: HashMap<i32, i64> = rows.into_iter().collect();
        for &(partition, believed, _) in moves {
            let found = found.get(&partition).copied().unwrap_or(-1);
            if found != believed {
                return Err(ApplyError::Fenced { partition, believed, found });
            }
        }
        let active: Option<FoldAndActive> =
            sqlx::query_as(active::FOLD_AND_ACTIVE).bind(self.topic).fetch_optional(&mut *self.connection).await?;
        self.sent += 2;
        let (found, dedup, window, ends, is_early) = active.unwrap_or((-1, None, None, None, false));
        if found != FOLD_VERSION {
            return Err(ApplyError::FoldVersion { found });
        }
        let rules = dedup.zip(window).map(|(dedup, window)| FoldRules::stored(&dedup, window));
        if rules.as_ref().map(FoldRules::dedup) != Some(own) {
            return Err(ApplyError::FoldRules { found: rules, own });
        }
        let beyond = |&(partition, _, next): &(i32, i64, i64)| {
            ends.as_ref().is_some_and(|ends| ends.get(partition as usize).is_none_or(|&end| next > end))
        };
        if is_early || moves.iter().any(beyond) {
            return Err(ApplyError::NotActive { topic: self.topic.to_owned() });
        }
        Ok(())
    }

    /// Returns which events of the batch were counted before, each with the last time.
    pub(super) async fn handled(&mut self, batch: &Batch, window: Duration) -> sqlx::Result<HashMap<Uuid, Millis>> {
        let Some(earliest) = batch.times().min() else {
            return Ok(HashMap::new());
        };
        let since = timestamp((earliest - window.as_millis() as Millis).max(0));
        let sql = "SELECT event_id, record_time FROM event_handled WHERE event_id = ANY($1) AND record_time >= $2";
        let query = sqlx::query_as(sql).bind(batch.event_ids()).bind(since);
        self.sent += 1;
        let rows: Vec<(Uuid, DateTime<Utc>)> = query.fetch_all(&mut *self.connection).await?;
        let mut handled = HashMap::new();
        for (id, time) in rows {
            let time = time.timestamp_millis();
            let latest: &mut Millis = handled.entry(id).or_insert(time);
            *latest = time.max(*latest);
        }
        Ok(handled)
    }

    /// A plain insert: existing ids were looked up before, so only another worker's write can conflict, and then the batch
    /// is retried.
    pub(super) async fn remember(&mut self, handled: &[(Uuid, Millis)]) -> sqlx::Result<()> {
        if handled.is_empty() {
            return Ok(());
        }
        let (ids, times): (Vec<_>, Vec<_>) = handled.iter().map(|&(id, time)| (id, timestamp(time))).unzip();
        let sql = "INSERT INTO event_handled (event_id, record_time)
                   SELECT * FROM unnest($1::uuid[], $2::timestamptz[])";
        self.execute(sqlx::query(sql).bind(ids).bind(times)).await.map(drop)
    }

    /// Returns the rows of `product_like` for the batch's desired states.
    pub(super) async fn liked(&mut self, fold: &Fold<'_>) -> sqlx::Result<HashMap<Uuid, bool>> {
        if fold.desired.is_empty() {
            return Ok(HashMap::new());
        }
        let keys: Vec<_> = fold.desired.iter().map(|row| row.pair_key).collect();
        let query = sqlx::query_as("SELECT pair_key, liked FROM product_like WHERE pair_key = ANY($1)").bind(keys);
        self.sent += 1;
        let rows: Vec<(Uuid, bool)> = query.fetch_all(&mut *self.connection).await?;
        Ok(rows.into_iter().collect())
    }

    /// Plain inserts and updates: only the holder of the partition's lock writes here. If another process writes all the
    /// same, the insert conflicts or the update misses a row, and the batch fails: another process's transition must not
    /// be added to the counts twice.
    pub(super) async fn write_likes(
        &mut self,
        batch: &Batch,
        fold: &Fold<'_>,
        changes: &Changes,
    ) -> Result<(), ApplyError> {
        if !changes.first_likes.is_empty() {
            let rows = || changes.first_likes.iter().map(|&i| &fold.desired[i]);
            let sql = "INSERT INTO product_like (pair_key, changed_at, liked, product_id, user_id)
                       SELECT pair_key, now(), true, product_id, user_id
                       FROM unnest($1::uuid[], $2::text[], $3::text[]) AS new (pair_key, product_id, user_id)";
            let query = sqlx::query(sql)
                .bind(rows().map(|row| row.pair_key).collect::<Vec<_>>())
                .bind(rows().map(|row| batch.product(row.product)).collect::<Vec<_>>())
                .bind(rows().map(|row| row.user).collect::<Vec<_>>());
            self.execute(query).await?;
        }
        if !changes.changed.is_empty() {
            let rows = || changes.changed.iter().map(|&i| &fold.desired[i]);
            let sql = "UPDATE product_like SET liked = new.liked, changed_at = now()
                       FROM unnest($1::uuid[], $2::bool[]) AS new (pair_key, liked)
                       WHERE product_like.pair_key = new.pair_key AND product_like.liked <> new.liked";
            let query = sqlx::query(sql)
                .bind(rows().map(|row| row.pair_key).collect::<Vec<_>>())
                .bind(rows().map(|row| row.last).collect::<Vec<_>>());
            if self.execute(query).await? != changes.changed.len() as u64 {
                return Err(ApplyError::Raced);
            }
        }
        Ok(())
    }

    /// Adds the sums in product order, so that concurrent transactions lock rows in the same order. Returns how many of
    /// these counts are then below zero.
    pub(super) async fn add_counts(&mut self, batch: &Batch, changes: &Changes) -> sqlx::Result<u64> {
        if changes.sums.is_empty() {
            return Ok(0);
        }
        let sql = "WITH added AS (
                       INSERT INTO product_like_count AS old (product_id, like_count, delta_count, updated_at)
                       SELECT product_id, likes, deltas, now()
                       FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS new (product_id, likes, deltas)
                       ON CONFLICT (product_id) DO UPDATE SET
                           like_count = old.like_count + excluded.like_count,
                           delta_count = old.delta_count + excluded.delta_count,
                           updated_at = excluded.updated_at
                       RETURNING like_count)
                   SELECT count(*) FROM added WHERE like_count < 0";
        let query = sqlx::query_scalar(sql)
            .bind(changes.sums.iter().map(|sum| batch.product(sum.product)).collect::<Vec<_>>())
            .bind(changes.sums.iter().map(|sum| sum.likes).collect::<Vec<_>>())
            .bind(changes.sums.iter().map(|sum| sum.deltas).collect::<Vec<_>>());
        self.sent += 1;
        let below: i64 = query.fetch_one(&mut *self.connection).await?;
        Ok(below as u64)
    }

    /// Adds the sums by hour, in the order of hours and products: see [`Self::add_counts`].
    pub(super) async fn add_hours(&mut self, batch: &Batch, changes: &Changes) -> sqlx::Result<()> {
        if changes.hours.is_empty() {
            return Ok(());
        }
        let sql = "INSERT INTO product_like_hour AS old (hour, product_id, likes)
                   SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::bigint[])
                   ON CONFLICT (hour, product_id) DO UPDATE SET likes = old.likes + excluded.likes";
        let query = sqlx::query(sql)
            .bind(changes.hours.iter().map(|sum| timestamp(sum.hour)).collect::<Vec<_>>())
            .bind(changes.hours.iter().map(|sum| batch.product(sum.product)).collect::<Vec<_>>())
            .bind(changes.hours.iter().map(|sum| sum.likes).collect::<Vec<_>>());
        self.execute(query).await.map(drop)
    }

    /// Keeps the first [`DEAD_LETTERS_KEPT`] of a partition and reason, and of the others their offsets.
    pub(super) async fn keep_dead_letters(&mut self, letters: &[DeadLetter]) -> sqlx::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let sql = "WITH new AS (
                       SELECT *, row_number() OVER (PARTITION BY partition, code ORDER BY record_offset) AS place
                       FROM (SELECT *, split_part(reason, ':', 1) AS code
                             FROM unnest($2::int[], $3::bigint[], $4::bytea[], $5::bytea[], $6::text[],
                                         $8::timestamptz[])
                                  AS u (partition, record_offset, key, payload, reason, record_time)) coded),
                   room AS (
                       SELECT partition, code, $7 - (SELECT count(*) FROM (
                           SELECT FROM dead_letter d
                           WHERE d.topic = $1 AND d.partition = g.partition AND split_part(d.reason, ':', 1) = g.code
                           LIMIT $7) full_rows) AS left_over
                       FROM (SELECT DISTINCT partition, code FROM new) g),
                   judged AS (SELECT new.*, place > left_over AS beyond FROM new JOIN room USING (partition, code)),
                   letters AS (
                       INSERT INTO dead_letter
                           (topic, partition, record_offset, key, payload, reason, rejected_at, record_time)
                       SELECT $1, partition, record_offset, key, payload, reason, now(), record_time
                       FROM judged WHERE NOT beyond
                       ON CONFLICT DO NOTHING)
                   INSERT INTO dead_letter_range AS old (topic, partition, bucket, reason, offsets, rejected_at)
                   SELECT $1, partition, record_offset / 10000, code,
                          range_agg(int8range(record_offset, record_offset + 1)), now()
                   FROM judged WHERE beyond GROUP BY partition, record_offset / 10000, code
                   ON CONFLICT (topic, partition, bucket, reason) DO UPDATE SET
                       offsets = old.offsets + excluded.offsets, rejected_at = excluded.rejected_at";
        let query = sqlx::query(sql)
            .bind(self.topic)
            .bind(letters.iter().map(|letter| letter.partition).collect::<Vec<_>>())
            .bind(letters.iter().map(|letter| letter.offset).collect::<Vec<_>>())
            .bind(letters.iter().map(|letter| letter.key.as_deref()).collect::<Vec<_>>())
            .bind(letters.iter().map(|letter| letter.payload.as_deref()).collect::<Vec<_>>())
            .bind(letters.iter().map(|letter| letter.reason.to_string()).collect::<Vec<_>>())
            .bind(DEAD_LETTERS_KEPT)
            .bind(letters.iter().map(|letter| letter.time.map(timestamp)).collect::<Vec<_>>());
        self.execute(query).await.map(drop)
    }

    /// Advances the offsets. Compares the expected ones once more: if `rebuild` swapped the schema while the fence waited
    /// for its lock, this statement finds other rows than the locked ones.
    pub(super) async fn advance(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        let spans = batch.spans();
        let sql = "UPDATE kafka_offset AS old
                   SET next_offset = new.next_offset, last_record_time = new.last_record_time, updated_at = now()
                   FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::timestamptz[])
                        AS new (partition, believed, next_offset, last_record_time)
                   WHERE old.topic = $1 AND old.partition = new.partition AND old.next_offset = new.believed";
        let query = sqlx::query(sql)
            .bind(self.topic)
            .bind(spans.keys().copied().collect::<Vec<_>>())
            .bind(spans.values().map(|span| span.believed).collect::<Vec<_>>())
            .bind(spans.values().map(|span| span.next).collect::<Vec<_>>())
            .bind(spans.values().map(|span| span.last_time.map(timestamp)).collect::<Vec<_>>());
        let moved = self.execute(query).await?;
        if moved == spans.len() as u64 {
            return Ok(());
        }
        let (&partition, span) = spans.first_key_value().expect("a batch covers a partition");
        Err(ApplyError::Fenced { partition, believed: span.believed, found: -1 })
    }

    /// Records a gap and moves the offset past it. The timestamp of the last folded record stays, so that a record found at
    /// that offset later is recognised as another log's.
    pub(super) async fn skip(&mut self, partition: i32, from: i64, to: i64) -> Result<(), ApplyError> {
        // After a backup was restored the same gap is found again, and may have grown.
        let gap = "INSERT INTO log_gap AS old (topic, partition, from_offset, to_offset, found_at)
                   VALUES ($1, $2, $3, $4, now())
                   ON CONFLICT (topic, partition, from_offset) DO UPDATE SET
                       to_offset = greatest(old.to_offset, excluded.to_offset), found_at = excluded.found_at";
        self.execute(sqlx::query(gap).bind(self.topic).bind(partition).bind(from).bind(to)).await?;
        let advance = "UPDATE kafka_offset SET next_offset = $4, updated_at = now()
                       WHERE topic = $1 AND partition = $2 AND next_offset = $3";
        let moved = self.execute(sqlx::query(advance).bind(self.topic).bind(partition).bind(from).bind(to)).await?;
        if moved == 1 { Ok(()) } else { Err(ApplyError::Fenced { partition, believed: from, found: -1 }) }
    }

    async fn execute(&mut self, query: Query<'_, Postgres, PgArguments>) -> sqlx::Result<u64> {
        self.sent += 1;
        Ok(query.execute(&mut *self.connection).await?.rows_affected())
    }
}

fn timestamp(time: Millis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time).expect("a batch holds times of the years 1970 to 9999")
}
