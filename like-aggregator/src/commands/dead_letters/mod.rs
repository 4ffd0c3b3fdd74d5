//! `dead-letters list | show | redrive | drop`: the records that broke a rule of the contract. `verdict` decides which are
//! events that may be published again, `redrive` publishes them; `letters` reads and deletes the rows.

mod letters;
mod list;
mod redrive;
mod verdict;

use serde_json::json;

pub(super) use self::letters::delete_of_users;
use self::letters::{check_exist, count, delete};
use super::{Outcome, not_done};
use crate::cli::{DeadLettersDropSettings, DeadLettersSettings};
use crate::commands::connection;
use crate::commands::output::answer;

pub async fn dead_letters(settings: &DeadLettersSettings) -> anyhow::Result<Outcome> {
    match settings {
        DeadLettersSettings::List(settings) => list::list(settings).await,
        DeadLettersSettings::Show(settings) => list::show(settings).await,
        DeadLettersSettings::Redrive(settings) => redrive::redrive(settings).await,
        DeadLettersSettings::Drop(settings) => drop_letters(settings).await,
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
