//! `dead-letters redrive`: publishes letters again, in order of record time. Of a user and product only the newest letter
//! is published, and only if the log has no later event of theirs.

use std::collections::HashMap;
use std::iter;

use anyhow::Context;
use like_common::layout;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::letters::{Letter, PAGE, Pages, check_exist, delete};
use super::verdict::{self, Redrivable, Verdict};
use crate::cli::{DeadLettersRedriveSettings, RecordPosition, Selection};
use crate::commands::Outcome;
use crate::commands::connection;
use crate::commands::output::{Table, answer};
use crate::commands::publisher::{self, Publisher};
use crate::progress::Progress;
use crate::topic::later_events::{Earlier, Later, LaterEvents};
use crate::topic::open_topic::OpenTopic;

/// How many refused letters the output names.
const NAMED: usize = 1_000;
/// Letters between two looks at the log's end. An event that arrives between a look and the publication is overridden.
const CHUNK: usize = 500;

#[derive(Serialize, Default)]
struct Redriven {
    redriven: u64,
    refused: u64,
    /// The first refused ones.
    letters: Vec<RefusedLetter>,
}

#[derive(Serialize)]
struct RefusedLetter {
    position: RecordPosition,
    why: String,
}

pub(super) async fn redrive(settings: &DeadLettersRedriveSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.servers.database, "dead-letters").await?;
    let topic = OpenTopic::find(&settings.report.servers.kafka, &mut connection, "dead-letters").await?;
    check_exist(&mut connection, &settings.which).await?;
    let mut done = Redriven::default();
    let letters = chosen(&mut connection, &settings.which, &mut done).await?;
    let layouts = layout::read_all(&mut connection).await?;
    let sequence = |topic: &str| layouts.iter().find(|l| l.topic == topic).map_or(0, |layout| layout.sequence);
    let events = letters.iter().map(|(position, time, event)| Earlier {
        sequence: sequence(&position.topic),
        partition: position.partition,
        offset: position.offset,
        time: time.unwrap_or_default(),
        event_id: event.event_id,
        pair: event.pair,
    });
    let mut later = LaterEvents::of(&topic.client, &layouts, events.collect());
    let mut publisher = Publisher::new(&topic, publisher::TIMEOUT)?;
    let progress = Progress::new("dead letters redriven", Some(letters.len() as u64));
    for first in (0..letters.len()).step_by(CHUNK) {
        later.read_on().await?;
        let mut positions = Vec::new();
        for (number, (position, ..)) in letters.iter().enumerate().skip(first).take(CHUNK) {
            match later.found(number) {
                Some(Later::Same(at)) => done.refuse(position, format!("its event is in the log at {at}: drop it")),
                Some(Later::Overtaken(at)) if !settings.even_if_changed => done.refuse(
                    position,
                    format!("its user has sent a later event for the product, at {at}: drop it, or --even-if-changed"),
                ),
                Some(Later::Unknown) if !settings.even_if_changed => {
                    let why = "the log no longer has all that was written since, so its user may have changed the like: \
                               drop it, or --even-if-changed";
                    done.refuse(position, why.to_owned());
                }
                _ => positions.push(position.clone()),
            }
        }
        let again = payloads(&mut connection, &positions).await?;
        // A letter is deleted only once the log has its event. After a crash in between it may be redriven twice, with the
        // same event id.
        let published;
        (publisher, published) = tokio::task::spawn_blocking(move || {
            let published = again.iter().try_for_each(|(product, payload)| publisher.publish(product, payload));
            let published = published.and_then(|()| publisher.finish());
            (publisher, published)
        })
        .await?;
        published.context("the letters that are not published are kept")?;
        let redriven = delete(&mut connection, &Selection { positions, ..Selection::default() }).await?;
        done.redriven += redriven;
        progress.add(redriven);
    }
    answer(settings.report.json, &done, Redriven::text)?;
    Ok(Outcome::unless(done.refused > 0))
}

/// A letter to publish, with its record time in milliseconds.
type Chosen = (RecordPosition, Option<i64>, Redrivable);

/// When a letter was written, as far as is known, and its position: the order of letters.
type Order = (i64, String, i32, i64);

/// Returns the selected letters that are events and the newest of their user and product, in order of record time. A newer
/// letter counts also if it isn't selected: it is what the user wanted last.
async fn chosen(connection: &mut PgConnection, which: &Selection, done: &mut Redriven) -> anyhow::Result<Vec<Chosen>> {
    let mut newest: HashMap<Uuid, Order> = HashMap::new();
    let all = Selection { all: true, ..Selection::default() };
    each(connection, &all, |letter, verdict| {
        if let Ok(event) = verdict {
            let newest = newest.entry(subject(event)).or_insert_with(|| order(letter));
            *newest = order(letter).max(newest.clone());
        }
    })
    .await?;
    let mut chosen = Vec::new();
    each(connection, which, |letter, verdict| {
        let event = match verdict {
            Ok(event) => *event,
            Err(why) => return done.refuse(&letter.position, why.clone()),
        };
        match newest.get(&subject(&event)) {
            Some(newer) if *newer > order(letter) => {
                let (_, topic, partition, offset) = newer.clone();
                let newer = RecordPosition { topic, partition, offset };
                done.refuse(&letter.position, format!("its user's newer dead letter is at {newer}: drop this one"));
            }
            _ => {
                let time = letter.record_time.map(|time| time.timestamp_millis());
                chosen.push((order(letter), (letter.position.clone(), time, event)));
            }
        }
    })
    .await?;
    chosen.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(chosen.into_iter().map(|(_, chosen)| chosen).collect())
}

/// Of letters with the same subject only the newest is published: user and product, or the id of a delta event.
fn subject(event: &Redrivable) -> Uuid {
    event.pair.unwrap_or(event.event_id)
}

fn order(letter: &Letter) -> Order {
    let RecordPosition { topic, partition, offset } = letter.position.clone();
    (letter.record_time.unwrap_or(letter.rejected_at).timestamp_millis(), topic, partition, offset)
}

async fn each(
    connection: &mut PgConnection,
    which: &Selection,
    mut visit: impl FnMut(&Letter, &Verdict),
) -> anyhow::Result<()> {
    let mut pages = Pages::of(which, connection).await?;
    loop {
        let letters = pages.next(connection, PAGE).await?;
        if letters.is_empty() {
            return Ok(());
        }
        let verdicts = verdict::of(connection, &letters).await?;
        iter::zip(&letters, &verdicts).for_each(|(letter, verdict)| visit(letter, verdict));
    }
}

/// Returns keys and payloads, in the order of the positions. Leaves out letters that were removed meanwhile.
async fn payloads(
    connection: &mut PgConnection,
    positions: &[RecordPosition],
) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let which = Selection { positions: positions.to_vec(), ..Selection::default() };
    let mut pages = Pages::of(&which, connection).await?;
    let mut found = HashMap::new();
    loop {
        let letters = pages.next(connection, PAGE).await?;
        if letters.is_empty() {
            break;
        }
        for letter in letters {
            if let Ok(key) = verdict::key(&letter) {
                found.insert(letter.position, (key, letter.payload.unwrap_or_default()));
            }
        }
    }
    Ok(positions.iter().filter_map(|position| found.remove(position)).collect())
}

impl Redriven {
    fn refuse(&mut self, position: &RecordPosition, why: String) {
        self.refused += 1;
        if self.letters.len() < NAMED {
            self.letters.push(RefusedLetter { position: position.clone(), why });
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} dead letters published again at the log's end, with their own event ids, and removed here\n{} refused",
            self.redriven, self.refused
        );
        if !self.letters.is_empty() {
            let mut table = Table::new(&["position", "why"]);
            self.letters.iter().for_each(|letter| table.row(&[&letter.position, &letter.why]));
            text.extend([":\n\n", &table.text()]);
        }
        text
    }
}
