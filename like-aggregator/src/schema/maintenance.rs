//! Periodic maintenance, safe to run in several aggregators at once: creates windows of `event_handled` ahead of time,
//! drops those that no unread record can need, deletes old dead letters, and sums old hours of `product_like_hour` to days. It
//! has a connection of its own, so that no batch waits for it. SQL decides what may be dropped; the broker only returns the log's ends.

use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use like_common::database::{self, DatabaseUrl};
use like_common::layout;
use like_common::session::Session;
use rdkafka::ClientConfig;
use sqlx::{Connection, PgConnection};
use tracing::{debug, info, warn};

use crate::fold::Dedup;
use crate::metrics::Metrics;
use crate::schema::fold_rules::interval;
use crate::topic::log_ends;

/// After this time a round counts as failed: its server is lost.
const DEADLINE: Duration = Duration::from_secs(60);

const CHUNK: i64 = 1_000;

/// Hours that are summed in one round at most: 14 million a day.
const HOURS: u64 = 100_000;

/// After so many failed rounds an operator should look. One or two may be an outage, which others report.
const WARN_AFTER: i64 = 3;

/// How often a window's lock is tried for in one round.
const ATTEMPTS: u32 = 5;

pub struct Upkeep {
    session: Session,
    client: ClientConfig,
    dedup: Dedup,
    dedup_window: Duration,
    metrics: Metrics,
}

impl Upkeep {
    /// Maintains the tables in `schema`, and keeps windows for `dedup_window`.
    pub fn new(
        url: &DatabaseUrl,
        schema: &str,
        client: ClientConfig,
        dedup: Dedup,
        dedup_window: Duration,
        metrics: Metrics,
    ) -> Self {
        let session = url.session(schema, "like-aggregator-upkeep");
        Self { session, client, dedup, dedup_window, metrics }
    }

    /// Runs a round at once, then one per `interval`, for ever.
    pub async fn run(self, interval: Duration) {
        let (mut failures, mut warned) = (0, None);
        loop {
            let round = tokio::time::timeout(DEADLINE, self.round()).await;
            if let Err(error) = round.unwrap_or_else(|_| Err(anyhow!("not done within {DEADLINE:?}"))) {
                failures += 1;
                let error = Some(format!("{error:#}"));
                if failures >= WARN_AFTER && warned != error {
                    warn!(failures, error, "maintenance of the tables keeps failing: trying again");
                    warned = error;
                } else {
                    debug!(failures, error, "upkeep: trying again later");
                }
            } else {
                failures = 0;
                if warned.take().is_some() {
                    info!("maintenance of the tables works again");
                }
            }
            self.metrics.upkeep_failures.set(failures);
            tokio::time::sleep(interval).await;
        }
    }

    async fn round(&self) -> anyhow::Result<()> {
        let mut connection = self.session.connect().await?;
        if matches!(self.dedup, Dedup::History(_)) {
            let ahead = "SELECT make_event_window(now(), $1), make_event_window(now() + interval '48 hours', $1)";
            let ahead = sqlx::query(ahead).bind(interval(self.dedup_window));
            ahead.execute(&mut connection).await.context("making windows of event_handled")?;
        }
        let dropped = self.drop_windows(&mut connection).await;
        self.report_windows(&mut connection).await.context("counting windows of event_handled")?;
        dropped.context("dropping windows of event_handled")?;
        delete_dead_letters(&mut connection).await.context("deleting old dead letters")?;
        sum_hours(&mut connection).await.context("summing old hours to days")?;
        connection.close().await?;
        Ok(())
    }

    async fn report_windows(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let sql = "SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent = 'event_handled'::regclass),
                          coalesce(extract(epoch FROM now() - min(from_at))::bigint, 0) FROM event_windows()";
        let (windows, oldest): (i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
        self.metrics.windows.set(windows);
        self.metrics.oldest_window.set(oldest.max(0));
        Ok(())
    }

    async fn drop_windows(&self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let (mut topics, mut partitions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for layout in layout::read_all(&mut *connection).await? {
            let log_ends = if let Some(ends) = layout.end_offsets.clone() {
                ends
            } else {
                let sql = "SELECT coalesce(next_offset, 0) FROM generate_series(0, $2 - 1) AS p (number)
                           LEFT JOIN kafka_offset ON topic = $1 AND partition = p.number ORDER BY p.number";
                let next = sqlx::query_scalar(sql).bind(&layout.topic).bind(layout.partitions);
                let next: Vec<i64> = next.fetch_all(&mut *connection).await?;
                let ends = log_ends::unfolded(&self.client, &layout.topic, &next).await?;
                ends.iter().map(log_ends::Unfolded::end).collect()
            };
            for (partition, end) in (0..).zip(log_ends).filter(|(partition, _)| layout.holds(*partition)) {
                topics.push(layout.topic.clone());
                partitions.push(partition);
                ends.push(end);
            }
        }
        let window = interval(self.dedup_window);
        let mut attempts = 0;
        loop {
            // The recorded window may have grown since this process read it.
            let drop = sqlx::query_scalar(
                "SELECT drop_event_window((SELECT greatest($1, dedup_window) FROM fold), $2, $3, $4)",
            );
            let dropped: Result<Option<String>, _> =
                drop.bind(window).bind(&topics).bind(&partitions).bind(&ends).fetch_one(&mut *connection).await;
            match dropped {
                Ok(Some(name)) => info!(name, "window of event_handled dropped: no unread record can need it"),
                Ok(None) => return Ok(()),
                Err(error) if attempts < ATTEMPTS && database::sqlstate(&error).as_deref() == Some("55P03") => {
                    attempts += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn delete_dead_letters(connection: &mut PgConnection) -> anyhow::Result<()> {
    let delete = "DELETE FROM dead_letter WHERE ctid = ANY (ARRAY(
                      SELECT ctid FROM dead_letter WHERE rejected_at < now() - interval '30 days'
                      ORDER BY rejected_at LIMIT $1))";
    let ranges = "DELETE FROM dead_letter_range WHERE rejected_at < now() - interval '30 days'";
    sqlx::query(ranges).execute(&mut *connection).await?;
    loop {
        let deleted = sqlx::query(delete).bind(CHUNK).execute(&mut *connection).await?.rows_affected();
        if deleted > 0 {
            info!(deleted, "dead letters older than 30 days deleted");
        }
        if deleted < CHUNK as u64 {
            return Ok(());
        }
    }
}

/// Sums hours to days that ended 36 days ago by the log's clock: one day more than anything reads by hours, for clocks that
/// differ. The sum of a product stays the same at any moment, and so does the sum of a day. Hours of such a day that are
/// folded later, as by a replay, are summed by a later round.
async fn sum_hours(connection: &mut PgConnection) -> sqlx::Result<()> {
    // Goes from hour to hour by the index, past the days that are summed, to the first that isn't one.
    let next = "WITH RECURSIVE old AS (
                    SELECT date_trunc('day', least(now(), max(last_record_time)) - interval '36 days', 'UTC') AS until,
                           (SELECT min(hour) FROM product_like_hour WHERE hour > '-infinity') AS hour
                    FROM kafka_offset
                    UNION ALL
                    SELECT until, (SELECT min(h.hour) FROM product_like_hour h WHERE h.hour > old.hour)
                    FROM old WHERE hour < until)
                SELECT hour FROM old WHERE hour < until AND hour <> date_trunc('day', hour, 'UTC') LIMIT 1";
    let sum = "WITH summed AS (
                   DELETE FROM product_like_hour WHERE hour = $1 AND product_id = ANY (ARRAY(
                       SELECT product_id FROM product_like_hour WHERE hour = $1 ORDER BY product_id LIMIT $2))
                   RETURNING product_id, likes)
               INSERT INTO product_like_hour AS day (hour, product_id, likes)
               SELECT date_trunc('day', $1, 'UTC'), product_id, likes FROM summed ORDER BY product_id
               ON CONFLICT (hour, product_id) DO UPDATE SET likes = day.likes + excluded.likes";
    let mut rows = 0;
    while rows < HOURS
        && let Some(hour) = sqlx::query_scalar::<_, DateTime<Utc>>(next).fetch_optional(&mut *connection).await?
    {
        loop {
            let summed = sqlx::query(sum).bind(hour).bind(CHUNK).execute(&mut *connection).await?.rows_affected();
            rows += summed;
            if summed < CHUNK as u64 || rows >= HOURS {
                break;
            }
        }
    }
    if rows > 0 {
        info!(rows, "hours of product_like_hour summed to days");
    }
    Ok(())
}
