//! `dead-letters list | show | redrive | drop`: the records that broke a rule of the contract. `verdict` decides which may
//! be published again; `letters` reads and deletes the rows.

mod letters;
mod list;
mod verdict;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use self::letters::{PAGE, Pages, check_exist, count, delete};
use super::{Outcome, not_done};
use crate::cli::{DeadLettersDropSettings, DeadLettersRedriveSettings, DeadLettersSettings, RecordPosition, Selection};
use crate::commands::connection;
use crate::commands::output::{Table, answer};
use crate::commands::publisher::{self, Publisher};
use crate::progress::Progress;
use crate::topic::open_topic::OpenTopic;

/// How many refused letters the output names.
const NAMED: usize = 1_000;

pub async fn dead_letters(settings: &DeadLettersSettings) -> anyhow::Result<Outcome> {
    match settings {
        DeadLettersSettings::List(settings) => list::list(settings).await,
        DeadLettersSettings::Show(settings) => list::show(settings).await,
        DeadLettersSettings::Redrive(settings) => redrive(settings).await,
        DeadLettersSettings::Drop(settings) => drop_letters(settings).await,
    }
}

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

async fn redrive(settings: &DeadLettersRedriveSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.servers.database, "dead-letters").await?;
    let topic = OpenTopic::find(&settings.report.servers.kafka, &mut connection, "dead-letters").await?;
    check_exist(&mut connection, &settings.which).await?;
    let mut publisher = Publisher::new(&topic, publisher::TIMEOUT)?;
    let mut pages = Pages::of(&settings.which, &mut connection).await?;
    let (mut done, progress) = (Redriven::default(), Progress::new("dead letters redriven", None));
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
                        done.letters.push(RefusedLetter { position: letter.position, why });
                    }
                }
            }
        }
        // A letter is deleted only once the log has its event. After a crash in between it may be redriven twice, with the
        // same event id.
        let published;
        (publisher, published) = tokio::task::spawn_blocking(move || {
            let published = again.iter().try_for_each(|(product, payload)| publisher.publish(product, payload));
            let published = published.and_then(|()| publisher.finish());
            (publisher, published)
        })
        .await?;
        published.context("the letters of this page are kept")?;
        let redriven = delete(&mut connection, &Selection { positions, ..Selection::default() }).await?;
        done.redriven += redriven;
        progress.add(redriven);
    }
    answer(settings.report.json, &done, Redriven::text)?;
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
            self.letters.iter().for_each(|letter| table.row(&[&letter.position, &letter.why]));
            text.extend([":\n\n", &table.text()]);
        }
        text
    }
}

async fn drop_letters(settings: &DeadLettersDropSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.database, "dead-letters").await?;
    check_exist(&mut connection, &settings.which).await?;
    let letters = if settings.yes {
        delete(&mut connection, &settings.which).await?
    } else {
        count(&mut connection, &settings.which).await?.cast_unsigned()
    };
    let verb = if settings.yes { "were" } else { "would be" };
    let dropped = json!({ "letters": letters, "done": settings.yes });
    answer(settings.report.json, &dropped, |_| format!("{letters} dead letters {verb} dropped"))?;
    if settings.yes { Ok(Outcome::Clean) } else { Err(not_done("drop them")) }
}
