//! `dead-letters list | show | redrive | drop`: records that broke a rule of the contract. What
//! may be published again, and why not, is `verdict`'s.

mod look;
mod verdict;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{Outcome, not_done};
use crate::cli::{DeadLettersDropSettings, DeadLettersRedriveSettings, DeadLettersSettings, RecordPosition, Selection};
use crate::commands::connection;
use crate::commands::output::{Progress, Table, answer};
use crate::commands::publisher::{self, Publisher};
use crate::topic::open_topic::OpenTopic;

/// Letters read at once: at most 128 KiB each.
const PAGE: i64 = 100;
/// Refused letters that are named.
const NAMED: usize = 1_000;
/// The rows that a [`Selection`] selects.
const SELECTED: &str = "($1::text IS NULL OR split_part(reason, ':', 1) = $1)
    AND ($2::text[] IS NULL OR (topic, partition, record_offset)
         IN (SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[])))";

/// Does what was asked of the dead letters.
pub async fn dead_letters(settings: &DeadLettersSettings) -> anyhow::Result<Outcome> {
    match settings {
        DeadLettersSettings::List(settings) => look::list(settings).await,
        DeadLettersSettings::Show(settings) => look::show(settings).await,
        DeadLettersSettings::Redrive(settings) => redrive(settings).await,
        DeadLettersSettings::Drop(settings) => drop_letters(settings).await,
    }
}

/// One row of `dead_letter`.
struct Letter {
    position: RecordPosition,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
    reason: String,
    rejected_at: DateTime<Utc>,
}

/// The letters of a selection, page by page in the order of their positions.
struct Pages<'a> {
    which: &'a Selection,
    after: Option<RecordPosition>,
    /// Letters that come while we work are not ours: a redriven one may come back as one.
    until: DateTime<Utc>,
}

impl<'a> Pages<'a> {
    async fn of(which: &'a Selection, connection: &mut PgConnection) -> sqlx::Result<Self> {
        let until = sqlx::query_scalar("SELECT now()").fetch_one(connection).await?;
        Ok(Self { which, after: None, until })
    }

    async fn next(&mut self, connection: &mut PgConnection, limit: i64) -> sqlx::Result<Vec<Letter>> {
        let sql = format!(
            "SELECT topic, partition, record_offset, key, payload, reason, rejected_at FROM dead_letter
             WHERE {SELECTED} AND rejected_at <= $8
               AND ($5::text IS NULL OR (topic, partition, record_offset) > ($5, $6, $7))
             ORDER BY topic, partition, record_offset LIMIT $9"
        );
        let (topics, partitions, offsets) = self.which.columns();
        let after = self.after.as_ref();
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(&self.which.reason)
            .bind(topics)
            .bind(partitions)
            .bind(offsets)
            .bind(after.map(|p| p.topic.as_str()))
            .bind(after.map(|p| p.partition))
            .bind(after.map(|p| p.offset))
            .bind(self.until)
            .bind(limit)
            .fetch_all(connection)
            .await?;
        let letters = rows.iter().map(letter).collect::<sqlx::Result<Vec<_>>>()?;
        if let Some(last) = letters.last() {
            self.after = Some(last.position.clone());
        }
        Ok(letters)
    }
}

fn letter(row: &sqlx::postgres::PgRow) -> sqlx::Result<Letter> {
    let (topic, partition, offset) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (key, payload) = (row.try_get(3)?, row.try_get(4)?);
    let position = RecordPosition { topic, partition, offset };
    Ok(Letter { position, key, payload, reason: row.try_get(5)?, rejected_at: row.try_get(6)? })
}

#[derive(Serialize, Default)]
struct Redriven {
    redriven: u64,
    refused: u64,
    /// The first of them.
    letters: Vec<Refused>,
}

#[derive(Serialize)]
struct Refused {
    position: RecordPosition,
    why: String,
}

async fn redrive(settings: &DeadLettersRedriveSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.database, "dead-letters").await?;
    let topic = OpenTopic::find(&settings.kafka, &mut connection, "dead-letters").await?;
    all_there(&mut connection, &settings.which).await?;
    let mut publisher = Publisher::new(&topic, publisher::TIMEOUT)?;
    let mut pages = Pages::of(&settings.which, &mut connection).await?;
    let (mut done, mut progress) = (Redriven::default(), Progress::new("dead letters redriven", None));
    loop {
        let letters = pages.next(&mut connection, PAGE).await?;
        if letters.is_empty() {
            break;
        }
        let verdicts = verdict::of(&mut connection, &letters, settings.even_if_changed).await?;
        let (mut again, mut positions) = (Vec::new(), Vec::new());
        for (letter, verdict) in letters.into_iter().zip(verdicts) {
            match verdict {
                Ok(product) => {
                    again.push((product, letter.payload.unwrap_or_default()));
                    positions.push(letter.position);
                }
                Err(why) => {
                    done.refused += 1;
                    if done.letters.len() < NAMED {
                        done.letters.push(Refused { position: letter.position, why });
                    }
                }
            }
        }
        // A letter goes only once the log has its event. Between the two it may be redriven twice,
        // and is the same event then.
        let published;
        (publisher, published) = tokio::task::spawn_blocking(move || {
            let published = again.iter().try_for_each(|(product, payload)| publisher.publish(product, payload));
            let published = published.and_then(|()| publisher.finish());
            (publisher, published)
        })
        .await?;
        published.context("the letters of this page are kept")?;
        done.redriven += delete(&mut connection, &Selection { positions, ..Selection::default() }).await?;
        progress.at(done.redriven);
    }
    answer(settings.json, &done, Redriven::text)?;
    Ok(Outcome::unless(done.refused > 0))
}

impl Redriven {
    fn text(&self) -> String {
        let mut text = format!(
            "{} dead letters published again at the log's end, with their own event ids, and removed here\n{} refused",
            self.redriven, self.refused
        );
        if !self.letters.is_empty() {
            let mut table = Table::new(&["position", "why"]);
            self.letters.iter().for_each(|letter| table.row(&[letter.position.to_string(), letter.why.clone()]));
            text.extend([":\n\n", &table.text()]);
        }
        text
    }
}

#[derive(Serialize)]
struct Dropped {
    letters: u64,
    /// Whether it was done.
    done: bool,
}

async fn drop_letters(settings: &DeadLettersDropSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.database, "dead-letters").await?;
    all_there(&mut connection, &settings.which).await?;
    let letters = if settings.yes {
        delete(&mut connection, &settings.which).await?
    } else {
        count(&mut connection, &settings.which).await?.cast_unsigned()
    };
    let dropped = Dropped { letters, done: settings.yes };
    let verb = if settings.yes { "were" } else { "would be" };
    answer(settings.json, &dropped, |dropped| format!("{} dead letters {verb} dropped", dropped.letters))?;
    if settings.yes { Ok(Outcome::Clean) } else { Err(not_done("drop them")) }
}

async fn count(connection: &mut PgConnection, which: &Selection) -> sqlx::Result<i64> {
    let sql = format!("SELECT count(*) FROM dead_letter WHERE {SELECTED}");
    let (topics, partitions, offsets) = which.columns();
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&which.reason).bind(topics).bind(partitions).bind(offsets);
    query.fetch_one(connection).await
}

async fn delete(connection: &mut PgConnection, which: &Selection) -> sqlx::Result<u64> {
    let sql = format!("DELETE FROM dead_letter WHERE {SELECTED}");
    let (topics, partitions, offsets) = which.columns();
    let query = sqlx::query(AssertSqlSafe(sql)).bind(&which.reason).bind(topics).bind(partitions).bind(offsets);
    Ok(query.execute(connection).await?.rows_affected())
}

/// A position that is named has to be there: else it was mistyped, or somebody was here before.
async fn all_there(connection: &mut PgConnection, which: &Selection) -> anyhow::Result<()> {
    for position in &which.positions {
        let sql = "SELECT EXISTS (SELECT FROM dead_letter WHERE topic = $1 AND partition = $2 AND record_offset = $3)";
        let there = sqlx::query_scalar(sql).bind(&position.topic).bind(position.partition).bind(position.offset);
        if !there.fetch_one(&mut *connection).await? {
            bail!("there is no dead letter at {position}: nothing was changed");
        }
    }
    Ok(())
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
