//! One batch in one transaction, fenced by its offsets. `sql` holds the statements, `worker` decides when and how often to
//! try, `fold` computes what a batch changes.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use hashbrown::HashMap;
use like_common::database::{self, DatabaseUrl, STALE_PLAN};
use like_common::session::{BEGIN, Session};
use sqlx::{Connection, PgConnection};
use tokio::time::error::Elapsed;
use tracing::info;

use super::error::ApplyError;
use super::sql::Statements;
use crate::fault::{self, Point};
use crate::fold::{Batch, Changes, Dedup};
use crate::schema::fold_rules::interval;

/// After this time the server or the network counts as lost, and the connection is closed. It is longer than the server's
/// own timeouts, so that those come first.
const DEADLINE: Duration = Duration::from_secs(30);

const PING_DEADLINE: Duration = Duration::from_secs(3);

/// Seconds of a slot, of which a window of `event_handled` has one or more whole ones (`make_event_window` in the
/// migrations).
const SLOT_SECONDS: i64 = 2 * 86_400;

/// Applies batches in one database schema.
pub struct Store {
    session: Session,
    connection: Option<PgConnection>,
    /// Whether the connection has answered before, so that its prepared statements may be stale.
    used: bool,
    connects: u64,
    topic: String,
    dedup: Dedup,
    /// The numbers of the slots of `event_handled` that are known to have a window.
    slots: HashSet<i64>,
}

/// What a committed batch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    pub applied: u64,
    pub duplicates: u64,
    pub unchanged: u64,
    pub below_zero: u64,
    /// SQL statements, BEGIN and COMMIT included.
    pub statements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredOffset {
    pub partition: i32,
    /// The offset of the last folded record, plus one.
    pub next_offset: i64,
    pub last_record_time: Option<DateTime<Utc>>,
}

impl Store {
    /// Returns a store for `topic` in the tables of `schema`. It connects when first used.
    pub fn new(url: &DatabaseUrl, schema: &str, topic: &str, dedup: Dedup) -> Self {
        let session = url.session(schema, "like-aggregator").with([
            // A client that has closed its connection (see DEADLINE) must not keep its locks.
            ("statement_timeout", "25s"),
            ("transaction_timeout", "28s"),
            ("client_connection_check_interval", "1s"),
            // Every statement of a batch finds its rows by key. A plan that was chosen for a small table would scan all of it
            // when it is large.
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
        ]);
        let topic = topic.to_owned();
        Self { session, connection: None, used: false, connects: 0, topic, dedup, slots: HashSet::new() }
    }

    /// Returns the stored offsets of those `partitions` that have a row, in partition order.
    pub async fn offsets(&mut self, partitions: &[i32]) -> Result<Vec<StoredOffset>, ApplyError> {
        let topic = self.topic.clone();
        let read = async {
            let connection = self.connected().await?;
            let sql = "SELECT partition, next_offset, last_record_time FROM kafka_offset
                       WHERE topic = $1 AND partition = ANY($2) ORDER BY partition";
            let rows: Vec<(i32, i64, Option<DateTime<Utc>>)> =
                sqlx::query_as(sql).bind(&topic).bind(partitions).fetch_all(connection).await?;
            let offset =
                |(partition, next_offset, last_record_time)| StoredOffset { partition, next_offset, last_record_time };
            Ok(rows.into_iter().map(offset).collect())
        };
        let result = tokio::time::timeout(DEADLINE, read).await;
        self.settle(result)
    }

    /// Returns how many connections it has made. A new one may have reached another server, or a restored backup.
    pub fn connects(&self) -> u64 {
        self.connects
    }

    pub async fn ping(&mut self) -> Result<(), ApplyError> {
        let ping = async { Ok(sqlx::query("SELECT").execute(self.connected().await?).await.map(drop)?) };
        let result = tokio::time::timeout(PING_DEADLINE, ping).await;
        self.settle(result)
    }

    /// Applies all of the batch with its offsets, or nothing.
    pub async fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        let result = tokio::time::timeout(DEADLINE, self.try_apply(batch)).await;
        if let Ok(Err(ApplyError::Sql(error))) = &result
            && database::sqlstate(error).as_deref() == Some("23514")
        {
            self.slots.clear();
        }
        self.settle(result)
    }

    /// Records that the offsets from `from` up to `to` were gone from the log before they were folded, and moves the stored
    /// offset past them, in one transaction that is fenced like a batch.
    pub async fn skip(&mut self, partition: i32, from: i64, to: i64) -> Result<(), ApplyError> {
        let (topic, dedup) = (self.topic.clone(), self.dedup);
        let skip = async {
            let mut transaction = self.connected().await?.begin_with(BEGIN).await?;
            let mut sql = Statements { connection: &mut transaction, topic: &topic, sent: 0 };
            sql.fence(&[(partition, from, to)], dedup).await?;
            sql.skip(partition, from, to).await?;
            Ok(transaction.commit().await?)
        };
        let result = tokio::time::timeout(DEADLINE, skip).await;
        self.settle(result)
    }

    /// Closes the connection after a failure: it may be within a transaction or wait for an answer.
    fn settle<T>(&mut self, result: Result<Result<T, ApplyError>, Elapsed>) -> Result<T, ApplyError> {
        let result = result.unwrap_or(Err(ApplyError::Deadline));
        if result.is_err() {
            self.connection = None;
        }
        let used = std::mem::replace(&mut self.used, result.is_ok());
        match result {
            Err(ApplyError::Sql(error)) if used && database::sqlstate(&error).as_deref() == Some(STALE_PLAN) => {
                Err(ApplyError::StalePlan(error))
            }
            result => result,
        }
    }

    async fn connected(&mut self) -> Result<&mut PgConnection, ApplyError> {
        if self.connection.is_none() {
            self.connection = Some(self.session.connect().await.map_err(ApplyError::Connect)?);
            self.connects += 1;
        }
        Ok(self.connection.as_mut().expect("connected above"))
    }

    async fn try_apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        if let Dedup::History(window) = self.dedup {
            self.make_windows(batch, window).await?;
        }
        let (topic, dedup) = (self.topic.clone(), self.dedup);
        let connection = self.connected().await?;
        let mut transaction = connection.begin_with(BEGIN).await?;
        fault::reached(Point::AfterBegin);
        let mut sql = Statements { connection: &mut transaction, topic: &topic, sent: 2 };
        let moves: Vec<_> = batch.spans().iter().map(|(&p, span)| (p, span.believed, span.next)).collect();
        sql.fence(&moves, dedup).await?;
        let handled = match dedup {
            Dedup::History(window) => sql.handled(batch, window).await?,
            Dedup::Batch => HashMap::new(),
        };
        let fold = batch.fold(dedup, handled);
        if matches!(dedup, Dedup::History(_)) {
            sql.remember(&fold.handled).await?;
        }
        let changes = fold.changes(batch, &sql.liked(&fold).await?);
        sql.write_likes(batch, &fold, &changes).await?;
        let below_zero = sql.add_counts(batch, &changes).await?;
        sql.add_hours(batch, &changes).await?;
        sql.keep_dead_letters(batch.dead_letters()).await?;
        sql.advance(batch).await?;
        let Statements { sent: statements, .. } = sql;
        fault::reached(Point::BeforeCommit);
        transaction.commit().await?;
        let Changes { applied, unchanged, .. } = changes;
        Ok(Applied { applied, unchanged, duplicates: fold.duplicates, below_zero, statements })
    }

    /// Makes the windows of `event_handled` that the batch needs, each in a transaction of its own.
    async fn make_windows(&mut self, batch: &Batch, window: Duration) -> Result<(), ApplyError> {
        let slots = batch.times().map(|time| time.div_euclid(SLOT_SECONDS * 1000));
        let missing: BTreeSet<i64> = slots.filter(|slot| !self.slots.contains(slot)).collect();
        let start = |slot| DateTime::from_timestamp(slot * SLOT_SECONDS, 0).expect("within the year 9999");
        for &slot in &missing {
            let connection = self.connected().await?;
            let make = sqlx::query("SELECT make_event_window($1, $2)").bind(start(slot)).bind(interval(window));
            make.execute(connection).await?;
            self.slots.insert(slot);
        }
        if let (Some(&first), Some(&last)) = (missing.first(), missing.last()) {
            info!(slots = missing.len(), first = %start(first), last = %start(last), "windows of event_handled made");
        }
        Ok(())
    }
}
