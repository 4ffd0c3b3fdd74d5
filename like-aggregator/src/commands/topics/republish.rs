//! `topics republish`: publishes events that were written past a closed topic's recorded end again, to the open topic and
//! with their ids. Of a user and product only the newest is published, and only if no later event is in the log.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, bail};
use like_events::{decode, pair_key};
use rdkafka::message::Message;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::cli::{TopicsRepublishSettings, TopicsSettings};
use crate::commands::output::answer;
use crate::commands::publisher::{self, Publisher};
use crate::commands::{Outcome, connection, not_done};
use crate::topic::LogReader;
use crate::topic::later_events::{Earlier, LaterEvents};
use crate::topic::open_topic::OpenTopic;
use crate::topic::past_end;

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Republished {
    topic: String,
    /// Events that were published, or would be at most.
    events: u64,
    /// Events that a later one of their user and product, or the same event, has overtaken.
    overtaken: u64,
    /// Records that break a rule.
    not_events: u64,
    done: bool,
}

pub(super) async fn republish(
    settings: &TopicsSettings,
    which: &TopicsRepublishSettings,
    mut connection: PgConnection,
) -> anyhow::Result<Outcome> {
    let layouts = connection::layouts(&mut connection).await?;
    let Some(closed) = layouts.iter().find(|layout| layout.topic == which.topic && layout.end_offsets.is_some()) else {
        bail!("{} is not a closed topic: `like-aggregator topics` lists them", which.topic);
    };
    let mut kafka = settings.report.servers.kafka.clone();
    kafka.kafka_topic = layouts.last().context("topic_layout is empty")?.topic.clone();
    let open = OpenTopic::find(&kafka, &mut connection, "topics").await?;

    let (from, sequence, partitions) = (past_end::from(closed), closed.sequence, closed.partitions);
    let starts = from.clone();
    let find = move |log: &LogReader| find(log, sequence, partitions, &starts);
    let Found { events, of_records, not_events, to } = LogReader::run(&open.client, &closed.topic, find).await?;
    let mut result = Republished {
        topic: open.layout.topic.clone(),
        events: events.len() as u64,
        not_events,
        ..Republished::default()
    };
    if !which.yes {
        answer(settings.report.json, &result, Republished::text)?;
        return Err(not_done("publish them again"));
    }
    let mut later = LaterEvents::of(&open.client, &layouts, events.clone());
    later.read_on().await?;
    let chosen = events.iter().enumerate().filter(|(number, _)| later.found(*number).is_none());
    let chosen: HashSet<_> = chosen.map(|(_, event)| (event.partition, event.offset)).collect();
    result.events = chosen.len() as u64;
    result.overtaken = of_records - result.events;
    let publisher = Publisher::new(&open, publisher::TIMEOUT)?;
    let (starts, ends) = (from, to.clone());
    let publish = move |log: &LogReader| publish(log, &chosen, &starts, &ends, publisher);
    LogReader::run(&open.client, &closed.topic, publish).await.context("not all are published: run it again")?;

    let mut transaction = connection::between_batches(&mut connection).await?;
    let recorded = (0..).zip(to.iter().zip(closed.end_offsets.iter().flatten()));
    let to: Vec<i64> =
        recorded.map(|(partition, (to, end))| if closed.holds(partition) { *to } else { *end }).collect();
    let done = "UPDATE topic_layout SET republished_to = $2 WHERE topic = $1";
    sqlx::query(done).bind(&closed.topic).bind(&to).execute(&mut *transaction).await?;
    transaction.commit().await?;
    result.done = true;
    answer(settings.report.json, &result, Republished::text)?;
    Ok(Outcome::Clean)
}

struct Found {
    /// The newest of each user and product, and all delta events.
    events: Vec<Earlier>,
    /// Events in all.
    of_records: u64,
    not_events: u64,
    /// Up to where the partitions were read.
    to: Vec<i64>,
}

fn find(log: &LogReader, sequence: i32, partitions: i32, from: &[i64]) -> anyhow::Result<Found> {
    let to: Vec<i64> = log.ends(partitions)?.iter().zip(from).map(|((_, end), from)| *end.max(from)).collect();
    let mut newest: HashMap<Uuid, Earlier> = HashMap::new();
    let (mut of_records, mut not_events) = (0, 0);
    log.read(&parts(from, &to), |record| {
        let (partition, offset) = (record.partition(), record.offset());
        if offset < to[partition as usize] {
            match decode(record.key(), record.payload()) {
                Ok(event) => {
                    of_records += 1;
                    let event_id = event.event_id.uuid();
                    let pair = event.user_id.as_ref().map(|user| pair_key(&event.product_id, user));
                    let time = record.timestamp().to_millis().unwrap_or_default();
                    let event = Earlier { sequence, partition, offset, time, event_id, pair };
                    let newest = newest.entry(pair.unwrap_or(event_id)).or_insert(event);
                    if (newest.time, newest.offset) <= (time, offset) {
                        *newest = event;
                    }
                }
                Err(_) => not_events += 1,
            }
        }
        offset + 1 >= to[partition as usize]
    })?;
    Ok(Found { events: newest.into_values().collect(), of_records, not_events, to })
}

fn publish(
    log: &LogReader,
    chosen: &HashSet<(i32, i64)>,
    from: &[i64],
    to: &[i64],
    mut publisher: Publisher,
) -> anyhow::Result<()> {
    let mut published = Ok(());
    log.read(&parts(from, to), |record| {
        let (partition, offset) = (record.partition(), record.offset());
        if published.is_ok() && chosen.contains(&(partition, offset)) {
            // An event's key is its product.
            let key = String::from_utf8_lossy(record.key().unwrap_or_default());
            published = publisher.publish(&key, record.payload().unwrap_or_default());
        }
        published.is_err() || offset + 1 >= to[partition as usize]
    })?;
    published?;
    publisher.finish().map(drop)
}

/// The partitions that have something to read, and from where.
fn parts(from: &[i64], to: &[i64]) -> Vec<(i32, i64)> {
    (0..).zip(from.iter().zip(to)).filter(|(_, (from, to))| from < to).map(|(p, (from, _))| (p, *from)).collect()
}

impl Republished {
    fn text(&self) -> String {
        let Self { topic, events, overtaken, not_events, done } = self;
        let verb = if *done { "were" } else { "would be, at most," };
        format!(
            "{events} events {verb} published again to {topic}, with their own event ids\n\
             {overtaken} were overtaken by a later event, or are in the log already\n\
             {not_events} records are no events"
        )
    }
}
