//! The rows of `dead_letter`: selected, read by page, counted and deleted.

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::cli::{RecordPosition, Selection};

/// How many letters are read at once, of at most 128 KiB each.
pub(super) const PAGE: i64 = 100;
/// SQL: the rows that a [`Selection`] selects.
const SELECTED: &str = "($1::text IS NULL OR split_part(reason, ':', 1) = $1)
    AND ($2::text[] IS NULL OR (topic, partition, record_offset)
         IN (SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[])))";

pub(super) struct Letter {
    pub(super) position: RecordPosition,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) reason: String,
    pub(super) rejected_at: DateTime<Utc>,
    /// When the broker wrote the record; None if that is unknown.
    pub(super) record_time: Option<DateTime<Utc>>,
}

type LetterRow = (String, i32, i64, Option<Vec<u8>>, Option<Vec<u8>>, String, DateTime<Utc>, Option<DateTime<Utc>>);

/// The letters of a selection, page by page in the order of their positions.
pub(super) struct Pages<'a> {
    which: &'a Selection,
    after: Option<RecordPosition>,
    /// Excludes letters rejected meanwhile: a redriven event may become a dead letter again.
    until: DateTime<Utc>,
}

impl<'a> Pages<'a> {
    pub(super) async fn of(which: &'a Selection, connection: &mut PgConnection) -> sqlx::Result<Self> {
        let until = sqlx::query_scalar("SELECT now()").fetch_one(connection).await?;
        Ok(Self { which, after: None, until })
    }

    pub(super) async fn next(&mut self, connection: &mut PgConnection, limit: i64) -> sqlx::Result<Vec<Letter>> {
        let sql = format!(
            "SELECT topic, partition, record_offset, key, payload, reason, rejected_at, record_time FROM dead_letter
             WHERE {SELECTED} AND rejected_at <= $8
               AND ($5::text IS NULL OR (topic, partition, record_offset) > ($5, $6, $7))
             ORDER BY topic, partition, record_offset LIMIT $9"
        );
        let (topics, partitions, offsets) = self.which.columns();
        let after = self.after.as_ref();
        let rows: Vec<LetterRow> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(&self.which.reason)
            .bind(topics)
            .bind(partitions)
            .bind(offsets)
            .bind(after.map(|p| p.topic.as_str()))
            .bind(after.map(|p| p.partition))
            .bind(after.map(|p| p.offset))
            .bind(self.until)
            .bind(limit)
            .fetch_all(connection)
            .await?;
        let letter = |(topic, partition, offset, key, payload, reason, rejected_at, record_time)| {
            let position = RecordPosition { topic, partition, offset };
            Letter { position, key, payload, reason, rejected_at, record_time }
        };
        let letters: Vec<_> = rows.into_iter().map(letter).collect();
        if let Some(last) = letters.last() {
            self.after = Some(last.position.clone());
        }
        Ok(letters)
    }
}

pub(super) async fn count(connection: &mut PgConnection, which: &Selection) -> sqlx::Result<i64> {
    let sql = format!("SELECT count(*) FROM dead_letter WHERE {SELECTED}");
    let (topics, partitions, offsets) = which.columns();
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&which.reason).bind(topics).bind(partitions).bind(offsets);
    query.fetch_one(connection).await
}

/// Returns how many dead letters of a selection by reason are kept as offsets only.
pub(super) async fn beyond(connection: &mut PgConnection, which: &Selection) -> sqlx::Result<i64> {
    let sql = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM dead_letter_range d, unnest(d.offsets) r
               WHERE $1::text IS NULL OR reason = $1";
    sqlx::query_scalar(sql).bind(&which.reason).fetch_one(connection).await
}

pub(super) async fn delete(connection: &mut PgConnection, which: &Selection) -> sqlx::Result<u64> {
    let sql = format!("DELETE FROM dead_letter WHERE {SELECTED}");
    let (topics, partitions, offsets) = which.columns();
    let query = sqlx::query(AssertSqlSafe(sql)).bind(&which.reason).bind(topics).bind(partitions).bind(offsets);
    Ok(query.execute(connection).await?.rows_affected())
}

/// Deletes the letters whose payload names one of these users, as far as it can be read: a letter that is cut, or no JSON,
/// can't be published again.
pub(in crate::commands) async fn delete_of_users(
    connection: &mut PgConnection,
    is_one: impl Fn(&str) -> bool,
) -> sqlx::Result<u64> {
    let all = Selection { all: true, ..Selection::default() };
    let mut pages = Pages::of(&all, connection).await?;
    let names_user = |letter: &Letter| {
        let payload = letter.payload.as_deref().unwrap_or_default();
        let value: Option<Value> = serde_json::from_slice(payload).ok();
        value.is_some_and(|value| value["userId"].as_str().is_some_and(&is_one))
    };
    let mut positions = Vec::new();
    loop {
        let letters = pages.next(connection, PAGE).await?;
        if letters.is_empty() {
            break;
        }
        positions.extend(letters.into_iter().filter(names_user).map(|letter| letter.position));
    }
    delete(connection, &Selection { positions, ..Selection::default() }).await
}

/// Refuses positions without a dead letter: mistyped ones, or ones already handled.
pub(super) async fn check_exist(connection: &mut PgConnection, which: &Selection) -> anyhow::Result<()> {
    for position in &which.positions {
        let sql = "SELECT EXISTS (SELECT FROM dead_letter WHERE topic = $1 AND partition = $2 AND record_offset = $3)";
        let there = sqlx::query_scalar(sql).bind(&position.topic).bind(position.partition).bind(position.offset);
        if !there.fetch_one(&mut *connection).await? {
            bail!("{}: nothing was changed", missing(connection, position).await?);
        }
    }
    Ok(())
}

/// Says why `dead_letter` has no row for a position.
pub(super) async fn missing(connection: &mut PgConnection, position: &RecordPosition) -> sqlx::Result<String> {
    let sql = "SELECT EXISTS (SELECT FROM dead_letter_range WHERE topic = $1 AND partition = $2 AND offsets @> $3)";
    let query = sqlx::query_scalar(sql).bind(&position.topic).bind(position.partition).bind(position.offset);
    Ok(if query.fetch_one(connection).await? {
        format!(
            "of the dead letter at {position} only the offset is kept, since there are too many: the log has the record"
        )
    } else {
        format!("there is no dead letter at {position}")
    })
}
