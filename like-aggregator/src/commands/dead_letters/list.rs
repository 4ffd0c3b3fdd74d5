//! `dead-letters list` and `show`: dead letters, and whether each can be redriven.

use std::fmt::Write as _;

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};

use super::letters::{Letter, PAGE, Pages, beyond, count, missing};
use super::verdict;
use crate::cli::{DeadLettersListSettings, DeadLettersShowSettings, RecordPosition, Selection};
use crate::commands::Outcome;
use crate::commands::connection;
use crate::commands::output::{Table, answer, time};

/// A reason in a table is cut to this many characters.
const REASON: usize = 60;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    position: RecordPosition,
    rejected_at: DateTime<Utc>,
    reason: String,
    /// Why it can't be published again; None: it can, unless the log has a later event.
    refused: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    /// The number of letters with the reason asked for.
    total: i64,
    /// The number of further ones, of which only the offsets are kept.
    beyond: i64,
    letters: Vec<Line>,
}

pub(super) async fn list(settings: &DeadLettersListSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.database, "dead-letters").await?;
    let which = Selection { all: settings.reason.is_none(), reason: settings.reason.clone(), positions: Vec::new() };
    let total = count(&mut connection, &which).await?;
    let beyond = beyond(&mut connection, &which).await?;
    let mut pages = Pages::of(&which, &mut connection).await?;
    let mut listed = Listed { total, beyond, letters: Vec::new() };
    loop {
        let left = i64::from(settings.limit) - listed.letters.len() as i64;
        let letters = pages.next(&mut connection, left.min(PAGE)).await?;
        if letters.is_empty() {
            break;
        }
        let verdicts = verdict::of(&mut connection, &letters).await?;
        listed.letters.extend(letters.into_iter().zip(verdicts).map(|(letter, verdict)| Line {
            position: letter.position,
            rejected_at: letter.rejected_at,
            reason: letter.reason,
            refused: verdict.err(),
        }));
    }
    answer(settings.report.json, &listed, Listed::text)?;
    Ok(Outcome::Clean)
}

impl Listed {
    fn text(&self) -> String {
        let mut table = Table::new(&["position", "rejected", "redrive", "reason"]);
        for line in &self.letters {
            let mut reason: String = line.reason.chars().take(REASON).collect();
            if reason.len() < line.reason.len() {
                reason.push('…');
            }
            let redrive = if line.refused.is_none() { "yes" } else { "no" };
            table.row(&[&line.position, &time(line.rejected_at), &redrive, &reason]);
        }
        let mut text = format!("{} of {} dead letters\n\n{}", self.letters.len(), self.total, table.text());
        if self.beyond > 0 {
            let _ = writeln!(text, "\n{} more are only in the log: dead_letter_range has their offsets", self.beyond);
        }
        text
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LetterDetails {
    #[serde(flatten)]
    line: Line,
    key: Option<Bytes>,
    payload: Option<Bytes>,
}

/// Shown as text if it is UTF-8, else in hexadecimal digits.
struct Bytes(Vec<u8>);

impl Bytes {
    fn text(&self) -> (&'static str, String) {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return ("text", text.to_owned());
        }
        let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
        ("hex", self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([self.text()])
    }
}

pub(super) async fn show(settings: &DeadLettersShowSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.database, "dead-letters").await?;
    let which = Selection { positions: vec![settings.position.clone()], ..Selection::default() };
    let letters = Pages::of(&which, &mut connection).await?.next(&mut connection, 1).await?;
    let verdict = verdict::of(&mut connection, &letters).await?.pop();
    let (Some(letter), Some(verdict)) = (letters.into_iter().next(), verdict) else {
        bail!("{}", missing(&mut connection, &settings.position).await?);
    };
    let Letter { position, key, payload, reason, rejected_at, .. } = letter;
    let line = Line { position, rejected_at, reason, refused: verdict.err() };
    let shown = LetterDetails { line, key: key.map(Bytes), payload: payload.map(Bytes) };
    answer(settings.report.json, &shown, LetterDetails::text)?;
    Ok(Outcome::Clean)
}

impl LetterDetails {
    fn text(&self) -> String {
        let bytes = |bytes: &Option<Bytes>| match bytes.as_ref().map(Bytes::text) {
            Some((kind, text)) => format!("{} bytes ({kind}): {text}", bytes.as_ref().map_or(0, |b| b.0.len())),
            None => "none".to_owned(),
        };
        let Line { position, rejected_at, reason, refused } = &self.line;
        let redrive = refused.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"));
        let mut table = Table::new(&["", ""]);
        table.row(&[&"position", position]);
        table.row(&[&"rejected", &time(*rejected_at)]);
        table.row(&[&"reason", reason]);
        table.row(&[&"redrive", &redrive]);
        table.row(&[&"key", &bytes(&self.key)]);
        table.row(&[&"payload", &bytes(&self.payload)]);
        table.text().trim_start().to_owned()
    }
}
