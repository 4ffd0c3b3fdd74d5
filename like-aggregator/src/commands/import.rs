//! `import FILE.csv`: publishes an event for each like in the file. The file is read twice, since all of it is checked
//! before anything is published. Each row's event id is derived from the row, so the events of a repeated import are
//! dropped as long as event ids are remembered.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use csv::{ByteRecord, ReaderBuilder};
use like_events::{EventId, LikeEvent, ProductId, UserId};
use serde_json::json;
use tracing::warn;

use super::Outcome;
use crate::cli::ImportSettings;
use crate::commands::connection;
use crate::commands::output::{answer, printable};
use crate::commands::publisher::Publisher;
use crate::progress::Progress;
use crate::topic::log_ends;
use crate::topic::open_topic::OpenTopic;

/// Bad rows that are named.
const NAMED: usize = 5;
/// Characters shown of a bad field.
const SHOWN: usize = 60;

pub async fn import(settings: ImportSettings) -> anyhow::Result<Outcome> {
    let file = settings.file.display().to_string();
    let mut open = File::open(&settings.file).with_context(|| format!("{file} can't be read"))?;
    if !open.metadata().is_ok_and(|about| about.is_file()) {
        bail!("{file} is not a file: it is read twice, so it can't be a pipe");
    }
    let checked = tokio::task::spawn_blocking(move || check(&mut open).map(|rows| (open, rows))).await?;
    let (mut open, rows) = checked.with_context(|| file.clone())?;
    let mut connection = connection::connect(&settings.report.servers.database, "import").await?;
    let topic = OpenTopic::find(&settings.report.servers.kafka, &mut connection, "import").await?;
    drop(connection);
    let ends = log_ends::of(&topic.client, &topic.layout.topic, topic.layout.partitions).await?;
    if ends.iter().any(|(_, end)| *end > 0) {
        warn!(
            "the topic holds records already: import before opening. A row overrides its user's newer unlike, and live likes \
             are counted after the rows (--rate N publishes N rows a second)"
        );
    }
    let start = Instant::now();
    let (mut publisher, rate) = (Publisher::new(&topic, settings.timeout)?, settings.rate);
    let published = tokio::task::spawn_blocking(move || publish(&mut publisher, &mut open, rows, rate)).await?;
    published.with_context(|| {
        format!("{file} with {rows} rows is not imported whole: run it again within DEDUP_WINDOW, which drops repeats")
    })?;
    let (topic, seconds) = (topic.layout.topic, start.elapsed().as_secs_f64());
    answer(settings.report.json, &json!({ "topic": topic, "rows": rows, "seconds": seconds }), |_| {
        format!("{rows} likes are in the log of {topic}, after {seconds:.1} s; `status` shows how far it is counted")
    })?;
    Ok(Outcome::Clean)
}

/// Reads the whole file. Returns its number of rows; the error names rows that can't be imported.
fn check(file: &mut File) -> anyhow::Result<u64> {
    let (mut rows, mut bad, mut named) = (0, 0, Vec::new());
    let progress = Progress::new("rows checked", None);
    for row in read(file)? {
        let (at, row) = row?;
        match row {
            Ok(_) => rows += 1,
            Err(why) => {
                bad += 1;
                if named.len() < NAMED {
                    named.push((at, why));
                }
            }
        }
        progress.add(1);
    }
    if bad > 0 {
        let named = named.iter().map(|(at, why)| Ok(format!("line {} {why}", line(file, *at)?)));
        let named: Vec<_> = named.collect::<io::Result<_>>()?;
        let more = if bad > NAMED as u64 { format!("; and {} more", bad - NAMED as u64) } else { String::new() };
        bail!("nothing was published: {}{more}", named.join("; "));
    }
    Ok(rows)
}

/// Returns the line number of the row that starts at this byte. The reader's own numbers leave out empty lines and count
/// lines that end in CR LF late.
fn line(file: &mut File, at: u64) -> io::Result<usize> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = BufReader::new(file).bytes().map_while(Result::ok);
    let before = bytes.by_ref().take(at as usize).filter(|byte| *byte == b'\n').count();
    let empty = bytes.take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| *byte == b'\n').count();
    Ok(1 + before + empty)
}

/// Publishes the rows that `check` has counted, and waits until the log has them all.
fn publish(publisher: &mut Publisher, file: &mut File, expected: u64, rate: Option<u32>) -> anyhow::Result<()> {
    let progress = Progress::new("rows in the log", Some(expected));
    let (mut rows, start) = (0, Instant::now());
    for row in read(file)? {
        let (_, row) = row?;
        let (product, user) = row.map_err(|why| anyhow!("the file has changed since it was checked: a row {why}"))?;
        let event = LikeEvent {
            event_id: EventId::from_import(&product, &user),
            liked: true,
            product_id: product.clone(),
            user_id: Some(user),
            occurred_at: Utc::now(),
        };
        if let Some(rate) = rate {
            std::thread::sleep((start + due(rows, rate)).saturating_duration_since(Instant::now()));
        }
        publisher.publish(product.as_str(), &event.to_json())?;
        rows += 1;
        progress.reach(publisher.acknowledged());
    }
    publisher.finish()?;
    if rows != expected {
        bail!("the file has changed since it was checked: it had {expected} rows and now has {rows}");
    }
    Ok(())
}

/// Returns the time from the start to the row after `rows` others.
fn due(rows: u64, rate: u32) -> Duration {
    Duration::from_secs_f64(rows as f64 / f64::from(rate))
}

/// A row, or what is wrong with it.
type Row = Result<(ProductId, UserId), String>;

/// Returns the rows of a file from its start, without the line of names. Each has the byte of the file at which it starts.
fn read(file: &mut File) -> anyhow::Result<impl Iterator<Item = csv::Result<(u64, Row)>>> {
    file.seek(SeekFrom::Start(0))?;
    // Rows with any number of fields: `row` says what is wrong.
    let reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
    let rows = reader.into_byte_records().enumerate().map(|(index, record)| {
        let record = record?;
        let at = record.position().map_or(0, csv::Position::byte);
        Ok(row(&record, index == 0).map(|row| (at, row)))
    });
    Ok(rows.filter_map(Result::transpose))
}

/// Returns None for the line of names, which only the first line may be: joined files have more of them.
fn row(record: &ByteRecord, is_first: bool) -> Option<Row> {
    let fields = record.len();
    if fields != 2 {
        let expected = "expected product_id,user_id (put an id with a comma in quotes)";
        return Some(Err(format!("has {fields} fields, {expected}")));
    }
    let [product, user] = [0, 1].map(|index| String::from_utf8_lossy(&record[index]));
    match names(&product, &user) {
        Some(true) if is_first => return None,
        Some(true) => return Some(Err(format!("names the columns {product},{user}, as only the first line may"))),
        Some(false) => return Some(Err(format!("names the columns {product},{user}: swap them"))),
        None => {}
    }
    let wrong = |name: &str, text: &str, rule: like_events::InvalidId| {
        let shown: String = printable(text).chars().take(SHOWN).collect();
        format!("has {name} '{shown}', which {rule}")
    };
    let product = ProductId::parse(&product).map_err(|rule| wrong("product_id", &product, rule));
    let user = UserId::parse(&user).map_err(|rule| wrong("user_id", &user, rule));
    Some(product.and_then(|product| Ok((product, user?))))
}

/// Whether a row is the line of names in the right order (true) or swapped (false), in any spelling. Taken for ids they
/// would be a like.
fn names(first: &str, second: &str) -> Option<bool> {
    let plain = |name: &str| name.to_lowercase().replace(['_', '-', ' '], "");
    match (plain(first).as_str(), plain(second).as_str()) {
        ("productid", "userid") => Some(true),
        ("userid", "productid") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_due_at_the_rate() {
        assert_eq!([0, 1, 500, 3_000].map(|rows| due(rows, 500).as_millis()), [0, 2, 1_000, 6_000]);
    }
}
