//! A user's likes, newest first, page by page. A page continues after the last like of the one before, by its time and key, so
//! likes that come in meanwhile neither shift nor repeat others.
//!
//! The query uses an index that operators may leave out (`setup --user-likes`). It looks for the index itself, so the answer is
//! right at once when the index is made or dropped, or when `rebuild` replaces the tables.

use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use like_events::UserId;
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::read::error::ReadError;
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries;

/// The most likes of a page.
pub const PAGE_MAX: usize = 100;

/// The most queries at a time, of the pool's eight connections: each reads all rows of its user, who may have many.
const QUERIES: usize = 4;

pub struct UserLikes {
    pool: PgPool,
    queries: Semaphore,
}

/// A like of the user's.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LikedProduct {
    #[schema(schema_with = super::likes::product_id_schema)]
    pub product_id: String,
    /// When the like was counted, in UTC.
    #[schema(format = DateTime)]
    pub liked_at: String,
}

/// The last like of a page: the next page continues after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// PostgreSQL's times have microseconds.
    pub changed_at: DateTime<Utc>,
    pub pair_key: Uuid,
}

pub struct Page {
    pub items: Vec<LikedProduct>,
    /// None: it is the last one.
    pub next: Option<Cursor>,
}

impl UserLikes {
    pub fn new(pool: PgPool) -> Self {
        Self { pool, queries: Semaphore::new(QUERIES) }
    }

    /// Returns the page after `cursor`, or the first one. None: the tables have no index for it.
    pub async fn page(&self, user: &UserId, after: Option<Cursor>, limit: usize) -> Result<Option<Page>, ReadError> {
        let Ok(Ok(_permit)) = timeout(READ_TIMEOUT, self.queries.acquire()).await else {
            return Err(ReadError::Overloaded);
        };
        // One more shows whether there is another page.
        let Some(mut rows) = queries::user_likes(&self.pool, user, after, limit + 1).await? else { return Ok(None) };
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| !is_last).map(|(_, cursor)| *cursor);
        let items = rows.into_iter().map(|(product_id, Cursor { changed_at, .. })| LikedProduct {
            product_id,
            liked_at: changed_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        });
        Ok(Some(Page { items: items.collect(), next }))
    }
}

/// What a cursor matches. A larger first digit would be a time beyond what can be represented.
pub const CURSOR_PATTERN: &str = "^[0-6][0-9a-f]{47}$";

/// 16 hexadecimal digits of the time, in microseconds since 1970, and 32 of the key.
impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{}", self.changed_at.timestamp_micros(), self.pair_key.simple())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the next of an earlier page")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_one = text.len() == 48 && text.bytes().all(is_digit) && text.starts_with(|first| first < '7');
        let (time, key) = text.split_at_checked(16).filter(|_| is_one).ok_or(InvalidCursor)?;
        let time = i64::from_str_radix(time, 16).ok().and_then(DateTime::from_timestamp_micros);
        let changed_at = time.ok_or(InvalidCursor)?;
        Ok(Self { changed_at, pair_key: Uuid::try_parse(key).map_err(|_| InvalidCursor)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn cursor_reads_back(micros in 0..4_102_444_800_000_000_i64, key: u128) {
            let changed_at = DateTime::from_timestamp_micros(micros).unwrap();
            let cursor = Cursor { changed_at, pair_key: Uuid::from_u128(key) };
            proptest::prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn any_text_is_a_cursor_or_not(text in "[0-9a-f]{48}|[0-9a-fA-F+é-]{46,49}|.{0,5}") {
            let parsed = text.parse::<Cursor>();
            proptest::prop_assert_eq!(regex::Regex::new(CURSOR_PATTERN).unwrap().is_match(&text), parsed.is_ok());
            if let Ok(cursor) = parsed {
                proptest::prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
