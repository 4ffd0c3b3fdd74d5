//! `topics`: lists the topics in the order of folding. `topics close`: records a topic's end offsets, so that the next
//! topic becomes active. This can't be undone: the ends are part of the fold.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use like_common::layout::{self, Layout};
use rdkafka::ClientConfig;
use serde_json::json;
use sqlx::PgConnection;
use tracing::info;

use super::{Outcome, not_done};
use crate::cli::{TopicsCloseSettings, TopicsCommand, TopicsSettings};
use crate::commands::connection;
use crate::commands::output::{Table, answer};
use crate::topic::log_ends;

/// How often `--wait` checks again.
const INTERVAL: Duration = Duration::from_millis(500);

pub async fn topics(settings: &TopicsSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.servers.database, "topics").await?;
    if let Some(TopicsCommand::Close(close)) = &settings.command {
        self::close(settings, close, &mut connection).await?;
        return Ok(Outcome::Clean);
    }
    let mut table = Table::new(&["sequence", "topic", "partitions", "state"]);
    let mut topics = Vec::new();
    for Layout { sequence, topic, partitions, end_offsets } in read_layouts(&mut connection).await? {
        let closed = end_offsets.is_some();
        table.row(&[&sequence, &topic, &partitions, if closed { &"closed" } else { &"open" }]);
        topics.push(json!({
            "sequence": sequence, "topic": topic, "partitions": partitions, "closed": closed, "endOffsets": end_offsets
        }));
    }
    answer(settings.report.json, &json!({ "topics": topics }), |_| table.text())?;
    Ok(Outcome::Clean)
}

async fn close(
    settings: &TopicsSettings,
    close: &TopicsCloseSettings,
    connection: &mut PgConnection,
) -> anyhow::Result<()> {
    let layouts = read_layouts(connection).await?;
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
        return Err(not_done(&format!("close {topic}, to which no producer may write any more")));
    }
    let client = settings.report.servers.kafka.client_config("like-aggregator-topics")?;
    let deadline = Instant::now() + close.wait.unwrap_or_default();
    loop {
        let next = next_offsets(connection, layout).await?;
        let left = log_ends::first_records(&client, topic, &next).await.context("Kafka")?;
        if left.is_empty() && try_close(connection, &client, layout).await? {
            info!(topic, next = layouts[place + 1].topic, "closed; the next topic is active");
            return Ok(());
        }
        if Instant::now() >= deadline {
            let records: i64 = left.values().map(|(first, end)| end - first).sum();
            let how = if close.wait.is_some() { "--wait has passed" } else { "--wait DURATION waits for it" };
            bail!(
                "{topic} is not folded to its end: {records} records are left, or a producer still writes to it, perhaps \
                 in a transaction; nothing was changed; {how}"
            );
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Checks once more while the workers are blocked, and records the ends. Returns false if there are new records or a
/// transaction is open.
async fn try_close(connection: &mut PgConnection, client: &ClientConfig, layout: &Layout) -> anyhow::Result<bool> {
    let mut transaction = connection::between_batches(connection).await?;
    let ends = next_offsets(&mut transaction, layout).await?;
    // Checked first: once a transaction is committed, its records are found below.
    let open = log_ends::transaction_open(client, &layout.topic, layout.partitions).await.context("Kafka")?;
    if open || !log_ends::first_records(client, &layout.topic, &ends).await.context("Kafka")?.is_empty() {
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

async fn next_offsets(connection: &mut PgConnection, layout: &Layout) -> anyhow::Result<Vec<i64>> {
    let sql = "SELECT next_offset FROM kafka_offset WHERE topic = $1 AND partition < $2 ORDER BY partition";
    let query = sqlx::query_scalar(sql).bind(&layout.topic).bind(layout.partitions);
    let next: Vec<i64> = query.fetch_all(connection).await.context("kafka_offset")?;
    if next.len() != layout.partitions as usize {
        bail!("kafka_offset has {} rows for the {} partitions of {}", next.len(), layout.partitions, layout.topic);
    }
    Ok(next)
}

async fn read_layouts(connection: &mut PgConnection) -> anyhow::Result<Vec<Layout>> {
    layout::read_all(connection).await.context("topic_layout (made by `like-aggregator setup`)")
}
