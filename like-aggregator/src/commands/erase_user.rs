//! `erase-user`: publishes an unlike for each product that the user likes, then deletes the user's rows and dead letters. A
//! row with `liked = false` counts the same as no row, so the counts stay right. Likes that the user sends meanwhile stay,
//! and the command reports them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::Utc;
use like_events::{EventId, LikeEvent, ProductId, UserId};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Outcome, not_done};
use crate::cli::EraseUserSettings;
use crate::commands::connection;
use crate::commands::dead_letters::delete_of_user;
use crate::commands::output::answer;
use crate::commands::publisher::{self, Publisher};
use crate::progress::Progress;
use crate::topic::log_ends::{self, LogEnds};
use crate::topic::open_topic::OpenTopic;

/// Rows deleted between two batches of the workers.
const CHUNK: usize = 1_000;
const INTERVAL: Duration = Duration::from_millis(100);
/// How often the broker is asked whether a transaction has ended.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Erased {
    user: UserId,
    done: bool,
    /// Likes that were taken back, or would be.
    likes: u64,
    /// Rows that were deleted, or would be.
    rows: u64,
    /// Dead letters of the user that were deleted.
    dead_letters: u64,
    /// Rows that the user has added meanwhile.
    rows_since: i64,
    /// How long the topic keeps events; -1: for ever.
    retention_ms: Option<i64>,
}

pub async fn erase_user(settings: &EraseUserSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.servers.database, "erase-user").await?;
    // No index finds a user's likes: the whole table is read, which is fastest in its own order.
    sqlx::query("SET enable_seqscan = on").execute(&mut connection).await?;
    let topic = OpenTopic::find(&settings.report.servers.kafka, &mut connection, "erase-user").await?;
    let deadline = Instant::now() + settings.timeout;
    let mut erased = Erased {
        user: settings.user.clone(),
        done: settings.yes,
        likes: 0,
        rows: 0,
        dead_letters: 0,
        rows_since: 0,
        retention_ms: topic.live.setting("retention.ms").parse().ok(),
    };
    if !settings.yes {
        let sql = "SELECT count(*) FILTER (WHERE liked), count(*) FROM product_like WHERE user_id = $1";
        let counts: (i64, i64) = sqlx::query_as(sql).bind(settings.user.as_str()).fetch_one(&mut connection).await?;
        (erased.likes, erased.rows) = (counts.0.cast_unsigned(), counts.1.cast_unsigned());
        answer(settings.report.json, &erased, Erased::text)?;
        return Err(not_done("take the likes back and delete the rows"));
    }

    // A like that is in the log and not counted yet has no row.
    let name = topic.layout.topic.as_str();
    let ends = settled(&topic, deadline).await?;
    let ends = log_ends::after_last_records(&topic.client, name, ends).await?;
    let ends: Vec<_> = (0..).zip(ends).collect();
    folded(&mut connection, name, &ends, deadline).await?;

    let sql = "SELECT product_id FROM product_like WHERE user_id = $1 AND liked";
    let products: Vec<String> = sqlx::query_scalar(sql).bind(settings.user.as_str()).fetch_all(&mut connection).await?;
    erased.likes = products.len() as u64;
    let ends = unlike(&topic, settings.user.clone(), products).await?;
    folded(&mut connection, name, &ends, deadline).await.context(
        "all unlikes are in the log, and not all of them are counted yet: run it again once an aggregator runs",
    )?;
    erased.rows = delete(&mut connection, settings.user.as_str()).await?;
    // They would come back by a redrive.
    erased.dead_letters = delete_of_user(&mut connection, &settings.user).await?;
    let sql = "SELECT count(*) FROM product_like WHERE user_id = $1";
    erased.rows_since = sqlx::query_scalar(sql).bind(settings.user.as_str()).fetch_one(&mut connection).await?;
    answer(settings.report.json, &erased, Erased::text)?;
    Ok(Outcome::unless(erased.rows_since > 0))
}

/// Returns the log's written ends, once no transaction holds back a record before them.
async fn settled(topic: &OpenTopic, deadline: Instant) -> anyhow::Result<LogEnds> {
    let (name, partitions) = (&topic.layout.topic, topic.layout.partitions);
    let written = log_ends::written(&topic.client, name, partitions).await?;
    loop {
        let stable = log_ends::of(&topic.client, name, partitions).await?;
        let mut ends = (0..).zip(written.iter().zip(stable));
        let held_back = ends.find_map(|(n, ((_, written), (_, stable)))| (stable < *written).then_some((n, stable)));
        let Some((partition, from)) = held_back else { return Ok(written) };
        if Instant::now() > deadline {
            bail!(
                "partition {partition}: another producer's open transaction holds back the records from {from} on, and \
                 they may be likes of the user: end it (kafka-transactions.sh), then run this again (--timeout)"
            );
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

async fn folded(
    connection: &mut PgConnection,
    topic: &str,
    ends: &[(i32, i64)],
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut progress: Option<Progress> = None;
    loop {
        let sql = "SELECT partition, next_offset FROM kafka_offset WHERE topic = $1";
        let rows: Vec<(i32, i64)> = sqlx::query_as(sql).bind(topic).fetch_all(&mut *connection).await?;
        let stored: HashMap<i32, i64> = rows.into_iter().collect();
        let left = |(partition, end): &(i32, i64)| (end - stored.get(partition).copied().unwrap_or(0)).max(0);
        let Some((partition, end)) = ends.iter().find(|end| left(end) > 0) else {
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!("partition {partition} is not folded up to {end} yet: is an aggregator running? (--timeout)");
        }
        let left: u64 = ends.iter().map(left).sum::<i64>().cast_unsigned();
        let progress = progress.get_or_insert_with(|| Progress::new("offsets folded", Some(left)));
        progress.reach(progress.total().saturating_sub(left));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Publishes that the user likes none of these. Returns up to where the log has to be folded.
async fn unlike(topic: &OpenTopic, user: UserId, products: Vec<String>) -> anyhow::Result<Vec<(i32, i64)>> {
    let mut publisher = Publisher::new(topic, publisher::TIMEOUT)?;
    let published = tokio::task::spawn_blocking(move || {
        for product in products {
            let event = LikeEvent {
                event_id: EventId::random(),
                liked: false,
                product_id: ProductId::parse(&product)?,
                user_id: Some(user.clone()),
                occurred_at: Utc::now(),
            };
            publisher.publish(&product, &event.to_json())?;
        }
        publisher.finish()
    });
    let settled = published.await?.context("not all likes are taken back: run it again")?;
    Ok(settled.ends.into_iter().collect())
}

/// Deletes the rows of what the user doesn't like any more. Finding them takes long and needs no lock. They are deleted
/// between two batches, or a worker could miss a row that it has just read.
async fn delete(connection: &mut PgConnection, user: &str) -> anyhow::Result<u64> {
    let sql = "SELECT pair_key FROM product_like WHERE user_id = $1 AND NOT liked";
    let keys: Vec<Uuid> = sqlx::query_scalar(sql).bind(user).fetch_all(&mut *connection).await?;
    sqlx::query("SET enable_seqscan = off").execute(&mut *connection).await?;
    let mut deleted = 0;
    for chunk in keys.chunks(CHUNK) {
        let mut transaction = connection::between_batches(connection).await?;
        let sql = "DELETE FROM product_like WHERE pair_key = ANY($1) AND NOT liked";
        deleted += sqlx::query(sql).bind(chunk).execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
    }
    sqlx::query("SET enable_seqscan = on").execute(connection).await?;
    Ok(deleted)
}

impl Erased {
    fn text(&self) -> String {
        let Self { user, likes, rows, dead_letters, rows_since, .. } = self;
        if !self.done {
            return format!("{user} likes {likes} products; {rows} rows would be deleted");
        }
        let mut text = format!("{likes} likes of {user} taken back and counted, {rows} rows deleted");
        if *dead_letters > 0 {
            let _ = write!(text, "\n{dead_letters} dead letters deleted");
        }
        if *rows_since > 0 {
            let more =
                format!("\n{rows_since} rows were added meanwhile and stay: stop the user's likes, then run it again");
            text.push_str(&more);
        }
        let kept = match self.retention_ms {
            Some(ms @ 0..) => format!("for {}", humantime::format_duration(Duration::from_millis(ms.cast_unsigned()))),
            _ => "for ever: the topic has no retention".to_owned(),
        };
        text + &format!("\nthe log still has the user's events, and keeps each {kept}")
    }
}
