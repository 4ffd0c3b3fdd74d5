//! `import FILE.csv`: publishes an event for each like in the file. The file is read twice, since all of it is checked
//! before anything is published. Each row's event id is derived from the row, so the events of a repeated import are
//! dropped as long as event ids are remembered.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use csv::{ByteRecord, Reader, ReaderBuilder};
use like_events::{EventId, LikeEvent, ProductId, UserId};
use serde::Serialize;

use super::Outcome;
use crate::cli::ImportSettings;
use crate::commands::connection;
use crate::commands::output::{answer, printable};
use crate::commands::publisher::Publisher;
use crate::progress::Progress;
use crate::topic::open_topic::OpenTopic;

/// Bad rows that are named.
const NAMED: usize = 5;
/// Characters shown of a bad field.
const SHOWN: usize = 60;

#[derive(Serialize)]
struct Imported {
    topic: String,
    rows: u64,
    seconds: f64,
}

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
    let start = Instant::now();
    let mut publisher = Publisher::new(&topic, settings.timeout)?;
    let published = tokio::task::spawn_blocking(move || publish(&mut publisher, &mut open, rows)).await?;
    published.with_context(|| {
        format!("{file} with {rows} rows is not imported whole: run it again within DEDUP_WINDOW, which drops repeats")
    })?;
    let imported = Imported { topic: topic.layout.topic, rows, seconds: start.elapsed().as_secs_f64() };
    answer(settings.report.json, &imported, |Imported { topic, rows, seconds }| {
        format!("{rows} likes are in the log of {topic}, after {seconds:.1} s; `status` shows how far it is counted")
    })?;
    Ok(Outcome::Clean)
}

/// Reads the whole file. Returns its number of rows; the error names rows that can't be imported.
fn check(file: &mut File) -> anyhow::Result<u64> {
    let (mut rows, mut bad, mut named) = (0, 0, Vec::new());
    let progress = Progress::new("rows checked", None);
    for row in Rows::of(file)? {
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
fn publish(publisher: &mut Publisher, file: &mut File, expected: u64) -> anyhow::Result<()> {
    let progress = Progress::new("rows in the log", Some(expected));
    let mut rows = 0;
    for row in Rows::of(file)? {
        let (_, row) = row?;
        let (product, user) = row.map_err(|why| anyhow!("the file has changed since it was checked: a row {why}"))?;
        let event = LikeEvent {
            event_id: EventId::from_import(&product, &user),
            liked: true,
            product_id: product.clone(),
            user_id: Some(user),
            occurred_at: Utc::now(),
        };
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

/// The rows of a file from its start, without the line of names.
struct Rows<'a> {
    reader: Reader<&'a mut File>,
    record: ByteRecord,
    first: bool,
}

/// A row, or what is wrong with it.
type Row = Result<(ProductId, UserId), String>;

impl<'a> Rows<'a> {
    fn of(file: &'a mut File) -> anyhow::Result<Self> {
        file.seek(SeekFrom::Start(0))?;
        // Rows with any number of fields: `row` says what is wrong.
        let reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        Ok(Self { reader, record: ByteRecord::new(), first: true })
    }

    fn row(&self) -> Row {
        let fields = self.record.len();
        if fields != 2 {
            return Err(format!("has {fields} fields, expected product_id,user_id (put an id with a comma in quotes)"));
        }
        let field = |index: usize| String::from_utf8_lossy(&self.record[index]).into_owned();
        let wrong = |name: &str, text: &str, rule: like_events::InvalidId| {
            let shown: String = printable(text).chars().take(SHOWN).collect();
            format!("has {name} '{shown}', which {rule}")
        };
        let (product, user) = (field(0), field(1));
        if self.first && names(&product, &user) == Some(false) {
            return Err(format!("names the columns {product},{user}: swap them"));
        }
        let product = ProductId::parse(&product).map_err(|rule| wrong("product_id", &product, rule))?;
        let user = UserId::parse(&user).map_err(|rule| wrong("user_id", &user, rule))?;
        Ok((product, user))
    }
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

impl Iterator for Rows<'_> {
    /// The row, with the byte of the file at which it starts.
    type Item = csv::Result<(u64, Row)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.reader.read_byte_record(&mut self.record) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
            let text = |index: usize| String::from_utf8_lossy(&self.record[index]).into_owned();
            let is_names = self.first && self.record.len() == 2 && names(&text(0), &text(1)) == Some(true);
            let row = (!is_names).then(|| self.row());
            self.first = false;
            if let Some(row) = row {
                return Some(Ok((self.record.position().map_or(0, csv::Position::byte), row)));
            }
        }
    }
}
