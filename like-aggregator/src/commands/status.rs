//! `status`: how far each partition is folded and how many records are left, from PostgreSQL and the broker. Kafka's own
//! lag tools see only the copy of the offsets.

use std::collections::HashMap;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use like_common::database::SCHEMA;
use like_common::layout;
use rdkafka::ClientConfig;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use crate::cli::StatusSettings;
use crate::fold::FOLD_VERSION;
use crate::topic::log_ends;
use crate::topic::past_end::{self, PastEnd};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    topic: String,
    sequence: i32,
    fold_version: Option<i32>,
    build_fold_version: i32,
    lag: i64,
    dead_letters: i64,
    log_gaps: i64,
    /// Records behind the ends of closed topics.
    behind_ends: Vec<PastEnd>,
    partitions: Vec<Partition>,
    gaps: Vec<Gap>,
}

/// A part of the log that was gone before it was folded.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Gap {
    partition: i32,
    from_offset: i64,
    to_offset: i64,
    found_at: DateTime<Utc>,
}

impl sqlx::FromRow<'_, PgRow> for Gap {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            partition: row.try_get("partition")?,
            from_offset: row.try_get("from_offset")?,
            to_offset: row.try_get("to_offset")?,
            found_at: row.try_get("found_at")?,
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    partition: i32,
    next_offset: Option<i64>,
    log_start: i64,
    log_end: i64,
    lag: Option<i64>,
    /// Why it can't be folded further as it is.
    problem: Option<String>,
    last_record_time: Option<DateTime<Utc>>,
    log_gaps: i64,
    dead_letters: i64,
}

/// Prints where the fold stands.
pub async fn status(settings: &StatusSettings) -> anyhow::Result<()> {
    let status = read(settings).await?;
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(())
}

async fn read(settings: &StatusSettings) -> anyhow::Result<Status> {
    let topic = settings.kafka.kafka_topic.as_str();
    let client = settings.kafka.client_config("like-aggregator-status")?;
    let options = settings.database.database_url.connect_options(SCHEMA, "like-aggregator-status");
    let mut connection = PgConnection::connect_with(&options).await.context("PostgreSQL")?;
    let layouts = layout::read_all(&mut connection).await.context("topic_layout (made by `like-aggregator setup`)")?;
    let Some(layout) = layouts.iter().find(|layout| layout.topic == topic) else {
        bail!("topic_layout has no {topic}: `like-aggregator setup` has to be run");
    };
    let fold_version = sqlx::query_scalar("SELECT fold_version FROM fold").fetch_optional(&mut connection).await?;
    let sql = "SELECT o.next_offset, o.last_record_time,
                      (SELECT count(*) FROM log_gap g WHERE g.topic = $1 AND g.partition = p.partition) AS log_gaps,
                      (SELECT count(*) FROM dead_letter d WHERE d.topic = $1 AND d.partition = p.partition) AS dead_letters
               FROM generate_series(0, $2 - 1) AS p (partition)
               LEFT JOIN kafka_offset o ON o.topic = $1 AND o.partition = p.partition
               ORDER BY p.partition";
    let rows = sqlx::query(sql).bind(topic).bind(layout.partitions).fetch_all(&mut connection).await?;
    // Asked after the offsets were read: a lag is never negative by our own doing.
    let ends = log_ends::of(&client, topic, layout.partitions).await.context("Kafka")?;
    let behind_ends = past_end::find(&client, &layouts).await.context("Kafka")?;
    let mut partitions = Vec::with_capacity(rows.len());
    for ((partition, row), (log_start, log_end)) in (0..).zip(rows).zip(ends) {
        let next_offset: Option<i64> = row.try_get("next_offset")?;
        partitions.push(Partition {
            partition,
            next_offset,
            log_start,
            log_end,
            lag: next_offset.map(|next| (log_end - next).max(0)),
            problem: None,
            last_record_time: row.try_get("last_record_time")?,
            log_gaps: row.try_get("log_gaps")?,
            dead_letters: row.try_get("dead_letters")?,
        });
    }
    find_problems(&client, topic, &mut partitions).await?;
    let gaps = "SELECT partition, from_offset, to_offset, found_at FROM log_gap WHERE topic = $1 ORDER BY 1, 2";
    let gaps = sqlx::query_as(gaps).bind(topic).fetch_all(&mut connection).await?;
    Ok(Status {
        topic: topic.to_owned(),
        sequence: layout.sequence,
        fold_version,
        build_fold_version: FOLD_VERSION,
        lag: partitions.iter().filter_map(|p| p.lag).sum(),
        dead_letters: partitions.iter().map(|p| p.dead_letters).sum(),
        log_gaps: partitions.iter().map(|p| p.log_gaps).sum(),
        behind_ends,
        partitions,
        gaps,
    })
}

/// Finds what stops `run`: a log that was cut, or a topic that was created again.
async fn find_problems(client: &ClientConfig, topic: &str, partitions: &mut [Partition]) -> anyhow::Result<()> {
    let before = |p: &Partition| {
        let before = p.next_offset? - 1;
        (p.last_record_time.is_some() && (p.log_start..p.log_end).contains(&before)).then_some((p.partition, before))
    };
    let folded: Vec<_> = partitions.iter().filter_map(before).collect();
    let found = if folded.is_empty() { HashMap::new() } else { log_ends::records_at(client, topic, folded).await? };
    for p in partitions {
        let Some(next) = p.next_offset else {
            p.problem = Some("no row in kafka_offset".to_owned());
            continue;
        };
        let folded = (next - 1, p.last_record_time.map_or(-1, |time| time.timestamp_millis()));
        p.problem = if next > p.log_end {
            Some("folded beyond the log's end: the topic was cut or made anew".to_owned())
        } else if next < p.log_start {
            Some(format!("{} records are gone and were not folded", p.log_start - next))
        } else if found.get(&p.partition).is_some_and(|found| *found != folded) {
            Some(format!("the record at {} isn't the one that was folded: the topic was made anew", next - 1))
        } else {
            None
        };
    }
    Ok(())
}

fn print(status: &Status) {
    let version = status.fold_version.map_or_else(|| "none".to_owned(), |v| v.to_string());
    println!("topic         {} (sequence {}, {} partitions)", status.topic, status.sequence, status.partitions.len());
    println!("fold version  {version} in the database, {} in this build", status.build_fold_version);
    println!("lag           {} records", status.lag);
    println!("dead letters  {}", status.dead_letters);
    println!("log gaps      {}", status.log_gaps);
    for late in &status.behind_ends {
        let PastEnd { topic, partition, end_offset, first_offset, .. } = late;
        let records = late.records();
        println!(
            "NOT COUNTED   {records} records of {topic}, partition {partition}, from {first_offset} on: it is closed at {end_offset}"
        );
    }
    println!();
    println!("partition  next offset    log start      log end          lag  last record");
    for p in &status.partitions {
        let number = |value: Option<i64>| value.map_or_else(|| "no row".to_owned(), |v| v.to_string());
        let time = p
            .last_record_time
            .map_or_else(|| "-".to_owned(), |t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        let problem = p.problem.as_ref().map_or_else(String::new, |problem| format!("  {problem}"));
        println!(
            "{:>9}  {:>11}  {:>11}  {:>11}  {:>11}  {time}{problem}",
            p.partition,
            number(p.next_offset),
            p.log_start,
            p.log_end,
            number(p.lag)
        );
    }
    if !status.gaps.is_empty() {
        println!("\ngaps: gone from the log before they were folded");
        println!("partition         from           to  found");
    }
    for Gap { partition, from_offset, to_offset, found_at } in &status.gaps {
        let found = found_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        println!("{partition:>9}  {from_offset:>11}  {to_offset:>11}  {found}");
    }
}
