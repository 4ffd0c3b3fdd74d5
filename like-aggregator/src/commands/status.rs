//! `status`: how far each partition is folded and how many records are left, from PostgreSQL and the broker. Kafka's own
//! lag tools see only the copy of the offsets.

use std::collections::HashMap;
use std::fmt::Write as _;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use like_common::database::SCHEMA;
use like_common::layout::{self, partitions_text};
use rdkafka::ClientConfig;
use serde::Serialize;

use crate::cli::ReportSettings;
use crate::commands::gaps::{self, LogGap};
use crate::commands::output::{Table, answer, or_dash, time};
use crate::fold::FOLD_VERSION;
use crate::schema::user_likes::{self, UserLikes};
use crate::topic::log_ends;
use crate::topic::past_end::{self, PastEnd};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    topic: String,
    sequence: i32,
    /// The partitions that the database holds, if not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Vec<i32>>,
    fold_version: Option<i32>,
    build_fold_version: i32,
    /// Since when keys that are `UUIDv7`s give time-ordered event ids.
    time_ordered_ids_from: Option<DateTime<Utc>>,
    /// Whether a user's likes can be listed.
    user_likes: UserLikes,
    /// Records that can be folded now.
    lag: i64,
    /// Records that another producer's open transaction holds back.
    held_back: i64,
    dead_letters: i64,
    /// Those of them of which only the offsets are kept.
    dead_letters_beyond: i64,
    log_gaps: i64,
    /// Records past the ends of closed topics.
    behind_ends: Vec<PastEnd>,
    partitions: Vec<PartitionStatus>,
    gaps: Vec<LogGap>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartitionStatus {
    partition: i32,
    next_offset: Option<i64>,
    log_start: i64,
    /// The written end: records that are held back included.
    log_end: i64,
    lag: Option<i64>,
    held_back: i64,
    /// Why it can't be folded further as it is.
    problem: Option<String>,
    last_record_time: Option<DateTime<Utc>>,
    log_gaps: i64,
    dead_letters: i64,
    dead_letters_beyond: i64,
}

pub async fn status(settings: &ReportSettings) -> anyhow::Result<()> {
    answer(settings.json, &read(settings).await?, Status::text)
}

async fn read(settings: &ReportSettings) -> anyhow::Result<Status> {
    let (kafka, database) = (&settings.servers.kafka, &settings.servers.database);
    let topic = kafka.kafka_topic.as_str();
    let client = kafka.client_config("like-aggregator-status")?;
    let session = database.database_url.session(SCHEMA, "like-aggregator-status");
    let mut connection = session.connect().await.context("PostgreSQL")?;
    let layouts = layout::read_all(&mut connection).await.context("topic_layout (made by `like-aggregator setup`)")?;
    let Some(layout) = layouts.iter().find(|layout| layout.topic == topic) else {
        bail!("topic_layout has no {topic}: `like-aggregator setup` has to be run");
    };
    let fold_version = sqlx::query_scalar("SELECT fold_version FROM fold").fetch_optional(&mut connection).await?;
    let sql = "SELECT o.next_offset, o.last_record_time,
                      (SELECT count(*) FROM log_gap g WHERE g.topic = $1 AND g.partition = p.partition) AS log_gaps,
                      (SELECT count(*) FROM dead_letter d WHERE d.topic = $1 AND d.partition = p.partition) AS dead_letters,
                      (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM dead_letter_range d, unnest(d.offsets) r
                       WHERE d.topic = $1 AND d.partition = p.partition) AS beyond
               FROM generate_series(0, $2 - 1) AS p (partition)
               LEFT JOIN kafka_offset o ON o.topic = $1 AND o.partition = p.partition
               ORDER BY p.partition";
    let rows: Vec<PartitionRow> =
        sqlx::query_as(sql).bind(topic).bind(layout.partitions).fetch_all(&mut connection).await?;
    // Read after the offsets, so that records folded meanwhile don't make a lag negative.
    let next: Vec<i64> = rows.iter().map(|(next, ..)| next.unwrap_or(0)).collect();
    let ends = log_ends::unfolded(&client, topic, &next).await.context("Kafka")?;
    let behind_ends = past_end::find(&client, &layouts).await.context("Kafka")?;
    let partitions = (0..).zip(rows).zip(ends).map(|((partition, row), ends)| {
        let (next_offset, last_record_time, log_gaps, letters, beyond) = row;
        PartitionStatus {
            partition,
            next_offset,
            log_start: ends.start,
            log_end: ends.written,
            lag: next_offset.map(|next| (ends.after_last - next).max(0)),
            held_back: ends.held_back,
            problem: None,
            last_record_time,
            log_gaps,
            dead_letters: letters + beyond,
            dead_letters_beyond: beyond,
        }
    });
    let mut partitions: Vec<_> = partitions.filter(|p| layout.holds(p.partition)).collect();
    find_problems(&client, topic, &mut partitions).await?;
    Ok(Status {
        topic: topic.to_owned(),
        sequence: layout.sequence,
        held: layout.held.clone(),
        fold_version,
        build_fold_version: FOLD_VERSION,
        time_ordered_ids_from: layout.time_ordered_ids_from,
        user_likes: user_likes::read(&mut connection, SCHEMA).await?,
        lag: partitions.iter().filter_map(|p| p.lag).sum(),
        held_back: partitions.iter().map(|p| p.held_back).sum(),
        dead_letters: partitions.iter().map(|p| p.dead_letters).sum(),
        dead_letters_beyond: partitions.iter().map(|p| p.dead_letters_beyond).sum(),
        log_gaps: partitions.iter().map(|p| p.log_gaps).sum(),
        behind_ends,
        partitions,
        gaps: gaps::read(&mut connection, Some(topic)).await?,
    })
}

type PartitionRow = (Option<i64>, Option<DateTime<Utc>>, i64, i64, i64);

/// Finds what stops `run`: a log that was cut, or a topic that was created again.
async fn find_problems(client: &ClientConfig, topic: &str, partitions: &mut [PartitionStatus]) -> anyhow::Result<()> {
    let before = |p: &PartitionStatus| {
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
            Some("folded beyond the log's end: the topic was cut or created again".to_owned())
        } else if next < p.log_start {
            Some(format!("{} records are gone and were not folded", p.log_start - next))
        } else if found.get(&p.partition).is_some_and(|found| *found != folded) {
            Some(format!("the record at {} isn't the one that was folded: the topic was created again", next - 1))
        } else {
            None
        };
    }
    Ok(())
}

impl Status {
    fn text(&self) -> String {
        let Self { topic, sequence, partitions, build_fold_version, lag, dead_letters, log_gaps, .. } = self;
        let version = self.fold_version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        let ordered = self.time_ordered_ids_from.map_or_else(
            || "no (setup --time-ordered-ids)".to_owned(),
            |from| format!("of keys from {} on", time(from)),
        );
        let user_likes = match self.user_likes {
            UserLikes::Off => "not listed (setup --user-likes on)",
            UserLikes::Incomplete => {
                "not listed: the index is being made or dropped, or that was interrupted (setup --user-likes)"
            }
            UserLikes::On => "listed",
        };
        let mut text = format!(
            "topic         {topic} (sequence {sequence}, {})\n\
             fold version  {version} in the database, {build_fold_version} in this build\n\
             ordered ids   {ordered}\n\
             user likes    {user_likes}\n\
             lag           {lag} records\ndead letters  {dead_letters}\nlog gaps      {log_gaps}\n",
            match &self.held {
                None => format!("{} partitions", partitions.len()),
                Some(held) => format!("partitions {}, the others are in other databases", partitions_text(held)),
            }
        );
        if self.dead_letters_beyond > 0 {
            let beyond = self.dead_letters_beyond;
            let _ = writeln!(text, "              {beyond} of the dead letters are only in the log: dead_letter_range");
        }
        if self.held_back > 0 {
            let held_back = self.held_back;
            let _ = writeln!(text, "HELD BACK     {held_back} records, by another producer's open transaction");
        }
        for past in &self.behind_ends {
            let PastEnd { topic, partition, end_offset, first_offset, .. } = past;
            let _ = writeln!(
                text,
                "NOT COUNTED   {} records of {topic}, partition {partition}, from {first_offset} on: it is closed at {end_offset}",
                past.records()
            );
        }
        let mut table =
            Table::new(&["partition", "next offset", "log start", "log end", "lag", "held back", "last record", ""]);
        for p in partitions {
            let last = or_dash(p.last_record_time.map(|t| t.to_rfc3339_opts(SecondsFormat::Millis, true)));
            let problem = p.problem.as_deref().unwrap_or_default();
            let (next, lag) = (or_dash(p.next_offset), or_dash(p.lag));
            table.row(&[&p.partition, &next, &p.log_start, &p.log_end, &lag, &p.held_back, &last, &problem]);
        }
        text.extend(["\n", &table.text()]);
        if !self.gaps.is_empty() {
            let mut table = Table::new(&["partition", "from", "to", "found"]);
            for LogGap { partition, from_offset, to_offset, found_at, .. } in &self.gaps {
                table.row(&[partition, from_offset, to_offset, &time(*found_at)]);
            }
            text.extend(["\n\ngaps: gone from the log before they were folded\n\n", &table.text()]);
        }
        text
    }
}
