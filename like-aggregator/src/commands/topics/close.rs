//! `topics close`: fences every producer of a topic at the broker, waits until the topic is folded to its end, and records
//! its end offsets, so that the next topic becomes active. This can't be undone: the ends are part of the fold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use like_common::layout::Layout;
use rdkafka::ClientConfig;
use sqlx::PgConnection;
use tracing::info;

use crate::cli::{TopicsCloseSettings, TopicsSettings};
use crate::commands::{connection, not_done};
use crate::topic::fence;
use crate::topic::log_ends::{self, LogEnds};

/// How often the fold is checked again.
const INTERVAL: Duration = Duration::from_millis(500);
/// Brokers learn of the fence a moment after the controller; meanwhile records may still be written.
const FENCE_SETTLES: Duration = Duration::from_secs(2);
/// The least time for the fold once the producers are fenced.
const AFTER_FENCE: Duration = Duration::from_secs(15);

pub(super) async fn close(
    settings: &TopicsSettings,
    close: &TopicsCloseSettings,
    connection: &mut PgConnection,
) -> anyhow::Result<()> {
    let layouts = connection::layouts(connection).await?;
    let topic = close.topic.as_str();
    let Some(place) = layouts.iter().position(|layout| layout.topic == topic) else {
        bail!("topic_layout has no {topic}: `like-aggregator topics` lists them");
    };
    let layout = &layouts[place];
    if layout.end_offsets.is_some() {
        info!(topic, "closed already");
        return Ok(());
    }
    if let Some(earlier) = layouts[..place].iter().find(|layout| layout.end_offsets.is_none()) {
        bail!("{} comes before {topic} and is open: close it first", earlier.topic);
    }
    if place + 1 == layouts.len() {
        bail!(
            "no topic comes after {topic}, so likes could not be published: `setup --topic NEW --after {topic}` first"
        );
    }
    if !close.yes {
        return Err(not_done(&format!("close {topic}: from then on the broker refuses every record for it")));
    }
    let client = settings.report.servers.kafka.client_config("like-aggregator-topics")?;
    let deadline = Instant::now() + close.wait.unwrap_or_default();
    let how = if close.wait.is_some() { "--wait has passed" } else { "--wait DURATION waits for it" };
    if !layout.closing {
        let mut seen: Option<LogEnds> = None;
        loop {
            let left = unfolded(connection, &client, layout).await?;
            // With --wait, a fold that keeps up with its producers is enough: likes are refused for moments.
            let keeps_up = |seen: &LogEnds| left.first.iter().all(|(p, (first, _))| *first >= seen[*p as usize].1);
            let waits = close.wait.is_some();
            if left.is_nothing() || waits && !left.open_transaction && seen.as_ref().is_some_and(keeps_up) {
                break;
            }
            if Instant::now() >= deadline {
                bail!("{}; nothing was changed; {how}", left.reason(topic));
            }
            seen = Some(written(&client, layout).await?);
            tokio::time::sleep(INTERVAL).await;
        }
        fence::raise(&client, topic).await.with_context(|| format!("fencing {topic}; nothing was changed"))?;
        let mut transaction = connection::between_batches(connection).await?;
        let closing = "UPDATE topic_layout SET closing = true WHERE topic = $1";
        sqlx::query(closing).bind(topic).execute(&mut *transaction).await?;
        transaction.commit().await?;
        info!(topic, "the broker refuses every record from now on");
    }
    let deadline = deadline.max(Instant::now() + AFTER_FENCE);
    let mut before = written(&client, layout).await?;
    loop {
        tokio::time::sleep(FENCE_SETTLES).await;
        let now = written(&client, layout).await?;
        let left = unfolded(connection, &client, layout).await?;
        if now == before && left.is_nothing() && try_close(connection, &client, layout, &now).await? {
            info!(topic, next = layouts[place + 1].topic, "closed; the next topic is active");
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{}; its producers are fenced: run it again, with --wait DURATION", left.reason(topic));
        }
        before = now;
    }
}

/// What isn't folded.
struct Left {
    /// Per partition, the first record and the log's end.
    first: BTreeMap<i32, (i64, i64)>,
    /// Its records may be read later.
    open_transaction: bool,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.first.is_empty() && !self.open_transaction
    }

    fn reason(&self, topic: &str) -> String {
        let records: i64 = self.first.values().map(|(first, end)| end - first).sum();
        format!(
            "{topic} is not folded to its end: {records} records are left, or a producer still writes to it, perhaps in a \
             transaction"
        )
    }
}

async fn unfolded(connection: &mut PgConnection, client: &ClientConfig, layout: &Layout) -> anyhow::Result<Left> {
    // Checked first: once a transaction is committed, its records are found below.
    let open = log_ends::transaction_open(client, &layout.topic, layout.partitions).await.context("Kafka")?;
    let next = next_offsets(connection, layout, &vec![i64::MAX; layout.partitions as usize]).await?;
    let first = log_ends::first_records(client, &layout.topic, &next).await.context("Kafka")?;
    Ok(Left { first, open_transaction: open })
}

/// Returns the log's ends, with the records of open transactions.
async fn written(client: &ClientConfig, layout: &Layout) -> anyhow::Result<LogEnds> {
    let mut all = client.clone();
    all.set("isolation.level", "read_uncommitted");
    log_ends::of(&all, &layout.topic, layout.partitions).await.context("Kafka")
}

/// Records the ends while the workers are blocked, if the log still ends where it was found folded. Returns false
/// otherwise.
async fn try_close(
    connection: &mut PgConnection,
    client: &ClientConfig,
    layout: &Layout,
    folded: &LogEnds,
) -> anyhow::Result<bool> {
    let mut transaction = connection::between_batches(connection).await?;
    let elsewhere: Vec<i64> = folded.iter().map(|(_, end)| *end).collect();
    let ends = next_offsets(&mut transaction, layout, &elsewhere).await?;
    if written(client, layout).await? != *folded {
        transaction.rollback().await?;
        return Ok(false);
    }
    let record = "UPDATE topic_layout SET end_offsets = $2 WHERE topic = $1 AND end_offsets IS NULL";
    let recorded = sqlx::query(record).bind(&layout.topic).bind(ends).execute(&mut *transaction).await?;
    if recorded.rows_affected() != 1 {
        bail!("{} was closed by another command at this moment", layout.topic);
    }
    transaction.commit().await?;
    Ok(true)
}

/// Returns up to where each partition is folded; those that other databases hold, as in `elsewhere`.
async fn next_offsets(connection: &mut PgConnection, layout: &Layout, elsewhere: &[i64]) -> anyhow::Result<Vec<i64>> {
    let sql = "SELECT partition, next_offset FROM kafka_offset WHERE topic = $1";
    let query = sqlx::query_as(sql).bind(&layout.topic);
    let stored: Vec<(i32, i64)> = query.fetch_all(connection).await.context("kafka_offset")?;
    let mut next = elsewhere.to_vec();
    for partition in layout.held() {
        let Some((_, stored)) = stored.iter().find(|(stored, _)| *stored == partition) else {
            bail!("kafka_offset has no row for partition {partition} of {}", layout.topic);
        };
        next[partition as usize] = *stored;
    }
    Ok(next)
}
