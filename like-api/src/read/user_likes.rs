//! A user's likes, newest first, page by page. A page continues after the last like of the one before, by its time and key, so
//! likes that come in meanwhile neither shift nor repeat others.
//!
//! The query uses an index that operators may leave out (`setup --user-likes`). It looks for the index itself, so the answer is
//! right at once when the index is made or dropped, or when `rebuild` replaces the tables.

use std::cmp::Reverse;

use chrono::SecondsFormat;
use futures::future::join_all;
use like_events::UserId;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::read::cursor::Cursor;
use crate::read::databases::{Database, Databases};
use crate::read::error::ReadError;
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries;

/// The most likes of a page.
pub const PAGE_MAX: usize = 100;

/// The most queries at a time, of the pool's eight connections: each reads all rows of its user, who may have many.
const QUERIES: usize = 4;

pub struct UserLikes {
    databases: Databases,
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

pub struct Page {
    pub items: Vec<LikedProduct>,
    /// None: it is the last one.
    pub next: Option<Cursor>,
}

impl UserLikes {
    pub fn new(databases: Databases) -> Self {
        Self { databases, queries: Semaphore::new(QUERIES) }
    }

    /// Returns the page after `cursor`, or the first one. None: the tables have no index for it.
    pub async fn page(&self, user: &UserId, after: Option<Cursor>, limit: usize) -> Result<Option<Page>, ReadError> {
        let Ok(Ok(_permit)) = timeout(READ_TIMEOUT, self.queries.acquire()).await else {
            return Err(ReadError::Overloaded);
        };
        // One more shows whether there is another page.
        let databases = self.databases.all().iter();
        let read = async |database: &Database| queries::user_likes(&database.pool, user, after, limit + 1).await;
        // Waits for all queries, even if one fails: dropping a query closes its connection.
        let of_each: Vec<_> = join_all(databases.map(read)).await.into_iter().collect::<Result<_, _>>()?;
        let Some(of_each) = of_each.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
        let mut rows: Vec<_> = of_each.into_iter().flatten().collect();
        rows.sort_by_key(|(_, Cursor { changed_at, pair_key })| Reverse((*changed_at, *pair_key)));
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
