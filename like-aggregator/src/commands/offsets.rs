//! `offsets show` and `offsets reset`: the stored offsets, and moving them by hand. A reset first says what it means for
//! the counts. A worker whose partition is moved is fenced, as by any other writer.

use std::collections::HashMap;

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use like_common::cli::UsageError;
use like_common::session::BEGIN;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use super::{Outcome, not_done};
use crate::cli::{DatabaseReportSettings, OffsetTarget, OffsetsResetSettings, OffsetsSettings};
use crate::commands::connection;
use crate::commands::gaps::{self, LogGap};
use crate::commands::output::{Table, answer, or_dash};
use crate::topic::log_ends::{self, LogEnds};
use crate::topic::open_topic::OpenTopic;

pub async fn offsets(settings: &OffsetsSettings) -> anyhow::Result<Outcome> {
    match settings {
        OffsetsSettings::Show(settings) => show(settings).await,
        OffsetsSettings::Reset(settings) => reset(settings).await,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StoredPosition {
    topic: String,
    partition: i32,
    next_offset: i64,
    last_record_time: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct Positions {
    offsets: Vec<StoredPosition>,
    gaps: Vec<LogGap>,
}

async fn show(settings: &DatabaseReportSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.database, "offsets").await?;
    let sql = "SELECT topic, partition, next_offset, last_record_time, updated_at
               FROM kafka_offset ORDER BY topic, partition";
    let rows = sqlx::query_as::<_, (_, _, _, _, _)>(sql).fetch_all(&mut connection).await?;
    let position = |(topic, partition, next_offset, last_record_time, updated_at)| StoredPosition {
        topic,
        partition,
        next_offset,
        last_record_time,
        updated_at,
    };
    let offsets = rows.into_iter().map(position).collect();
    let gaps = gaps::read(&mut connection, None).await?;
    answer(settings.json, &Positions { offsets, gaps }, Positions::text)?;
    Ok(Outcome::Clean)
}

impl Positions {
    fn text(&self) -> String {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut offsets = Table::new(&["topic", "partition", "next offset", "last record", "updated"]);
        for row in &self.offsets {
            let last = or_dash(row.last_record_time.map(time));
            offsets.row(&[&row.topic, &row.partition, &row.next_offset, &last, &time(row.updated_at)]);
        }
        if self.gaps.is_empty() {
            return offsets.text();
        }
        let mut gaps = Table::new(&["topic", "partition", "from", "before", "found"]);
        for LogGap { topic, partition, from_offset, to_offset, found_at } in &self.gaps {
            gaps.row(&[&or_dash(topic.as_ref()), partition, from_offset, to_offset, &time(*found_at)]);
        }
        format!("{}\n\nnever folded:\n\n{}", offsets.text(), gaps.text())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Move {
    partition: i32,
    /// None: it has no row.
    before: Option<i64>,
    after: i64,
    log_start: i64,
    log_end: i64,
    /// Records that will not be counted.
    skipped: i64,
    /// Records that are in the log, were folded once, and will be once more.
    folded_again: i64,
    /// Dead letters from the new offset on, also those of which only the offset is kept: they belong to what is folded
    /// again.
    dead_letters_removed: i64,
}

#[derive(Serialize)]
struct Moved {
    topic: String,
    done: bool,
    partitions: Vec<Move>,
}

async fn reset(settings: &OffsetsResetSettings) -> anyhow::Result<Outcome> {
    if settings.all && matches!(settings.to, OffsetTarget::Offset(_)) {
        return Err(
            UsageError("--to with an offset needs --partition: offsets differ between partitions".to_owned()).into()
        );
    }
    let mut connection = connection::connect(&settings.report.servers.database, "offsets").await?;
    let topic = OpenTopic::find(&settings.report.servers.kafka, &mut connection, "offsets").await?;
    let partitions = match settings.partition {
        Some(partition) if topic.layout.holds(partition) => vec![partition],
        Some(partition) => {
            let held = topic.layout.held_text();
            return Err(UsageError(format!("--partition can't be {partition}: the database has {held}")).into());
        }
        None => topic.layout.held(),
    };
    // Between two batches, so that the offsets shown are those that are moved. The log's ends are read within it too, or
    // a worker could advance past them.
    let mut transaction = if settings.yes {
        connection::between_batches(&mut connection).await?
    } else {
        connection.begin_with(BEGIN).await?
    };
    let ends = log_ends::of(&topic.client, &topic.layout.topic, topic.layout.partitions).await?;
    let plan = plan(&mut transaction, &topic.layout.topic, &partitions, &ends, settings.to).await?;
    if settings.yes {
        apply(&mut transaction, &topic.layout.topic, &plan).await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    let moved = Moved { topic: topic.layout.topic, done: settings.yes, partitions: plan };
    answer(settings.report.json, &moved, Moved::text)?;
    if settings.yes { Ok(Outcome::Clean) } else { Err(not_done("move the offsets")) }
}

async fn plan(
    connection: &mut PgConnection,
    topic: &str,
    partitions: &[i32],
    ends: &LogEnds,
    to: OffsetTarget,
) -> anyhow::Result<Vec<Move>> {
    let sql = "SELECT partition, next_offset FROM kafka_offset WHERE topic = $1";
    let rows: Vec<(i32, i64)> = sqlx::query_as(sql).bind(topic).fetch_all(&mut *connection).await?;
    let stored: HashMap<i32, i64> = rows.into_iter().collect();
    let mut moves = Vec::with_capacity(partitions.len());
    for &partition in partitions {
        let (log_start, log_end) = ends[partition as usize];
        let after = match to {
            OffsetTarget::Earliest => log_start,
            OffsetTarget::Latest => log_end,
            OffsetTarget::Offset(offset) => offset,
        };
        if !(log_start..=log_end).contains(&after) {
            bail!("--to can't be {after}: the log of partition {partition} goes from {log_start} to {log_end}");
        }
        let before = stored.get(&partition).copied();
        let is_forward = before.is_some_and(|before| before < after);
        moves.push(Move {
            partition,
            before,
            after,
            log_start,
            log_end,
            skipped: before.map_or(0, |before| (after - before).max(0)),
            folded_again: before.map_or(0, |before| (before.min(log_end) - after).max(0)),
            dead_letters_removed: if is_forward {
                0
            } else {
                letters_from(connection, topic, partition, after).await?
            },
        });
    }
    Ok(moves)
}

/// Returns the number of a partition's dead letters from this offset on.
async fn letters_from(connection: &mut PgConnection, topic: &str, partition: i32, from: i64) -> sqlx::Result<i64> {
    let sql = "SELECT (SELECT count(*) FROM dead_letter WHERE topic = $1 AND partition = $2 AND record_offset >= $3)
                    + (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint
                       FROM dead_letter_range d, unnest(d.offsets * int8multirange(int8range($3, NULL))) r
                       WHERE topic = $1 AND partition = $2 AND bucket >= $3 / 10000)";
    sqlx::query_scalar(sql).bind(topic).bind(partition).bind(from).fetch_one(connection).await
}

/// Moves the rows. Removes dead letters and gaps at the positions to be folded again: a receipt would report them as the
/// result of an earlier fold, or of an earlier log.
async fn apply(connection: &mut PgConnection, topic: &str, moves: &[Move]) -> sqlx::Result<()> {
    for Move { partition, before, after, .. } in moves {
        if before.is_some_and(|before| before < *after) {
            let sql = "INSERT INTO log_gap (topic, partition, from_offset, to_offset, found_at)
                       VALUES ($1, $2, $3, $4, now())
                       ON CONFLICT (topic, partition, from_offset) DO UPDATE SET to_offset = excluded.to_offset";
            let gap = sqlx::query(sql).bind(topic).bind(*partition).bind(*before).bind(*after);
            gap.execute(&mut *connection).await?;
        } else {
            for sql in [
                "DELETE FROM log_gap WHERE topic = $1 AND partition = $2 AND from_offset >= $3",
                "UPDATE log_gap SET to_offset = $3 WHERE topic = $1 AND partition = $2 AND to_offset > $3",
                "DELETE FROM dead_letter WHERE topic = $1 AND partition = $2 AND record_offset >= $3",
                "DELETE FROM dead_letter_range
                 WHERE topic = $1 AND partition = $2 AND offsets <@ int8range($3, NULL)",
                "UPDATE dead_letter_range SET offsets = offsets - int8multirange(int8range($3, NULL))
                 WHERE topic = $1 AND partition = $2 AND bucket = $3 / 10000",
            ] {
                sqlx::query(sql).bind(topic).bind(*partition).bind(*after).execute(&mut *connection).await?;
            }
        }
        // The record before the new offset was not folded last, so its timestamp is unknown.
        let sql = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at) VALUES ($1, $2, $3, now())
                   ON CONFLICT (topic, partition) DO UPDATE
                   SET next_offset = $3, last_record_time = NULL, updated_at = now()";
        sqlx::query(sql).bind(topic).bind(*partition).bind(*after).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Moved {
    fn text(&self) -> String {
        let names =
            ["partition", "before", "after", "log start", "log end", "skipped", "folded again", "dead letters removed"];
        let mut table = Table::new(&names);
        for m in &self.partitions {
            let (before, removed) = (or_dash(m.before), m.dead_letters_removed);
            table.row(&[
                &m.partition,
                &before,
                &m.after,
                &m.log_start,
                &m.log_end,
                &m.skipped,
                &m.folded_again,
                &removed,
            ]);
        }
        let mut text = format!("{}\n\n{}\n", self.topic, table.text());
        let any = |of: fn(&Move) -> bool| self.partitions.iter().any(of);
        let mut say = |line: &str| text.extend(["\n", line]);
        if any(|m| m.skipped > 0) {
            say("Skipped records are never counted; log_gap notes them, and their receipts say lost.");
        }
        if any(|m| m.folded_again > 0) {
            say("Counts don't go back. A record that is folded again is dropped if its event id is still remembered.");
            say(
                "If it is not, a delta event counts twice, and an older like can replace a newer unlike that is dropped.",
            );
            say("To count a log again, use `rebuild`.");
        }
        if any(|m| m.before.is_some_and(|before| before > m.log_end)) {
            say(
                "A log that ends before the stored offset was cut or created again: its records from the new offset on are counted.",
            );
        }
        if any(|m| m.before.is_none()) {
            say(
                "A partition without a row: its records from the new offset on are counted, even if they were counted before.",
            );
        }
        if any(|m| m.before != Some(m.after)) {
            say(
                "A running aggregator continues from the new offset at its next batch of the partition, or when it is restarted.",
            );
        }
        text
    }
}
