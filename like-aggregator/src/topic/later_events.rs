//! Finds what the log says about events that are to be published again: a later event of the same user and product, or the
//! same event. It reads the log and not the tables, which don't have what isn't folded yet or changed no row.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::Arc;

use like_common::layout::Layout;
use like_common::topic_check;
use like_events::{decode, pair_key};
use rdkafka::ClientConfig;
use rdkafka::message::{BorrowedMessage, Message};
use uuid::Uuid;

use super::log_reader::LogReader;
use crate::fold::Millis;
use crate::progress::Progress;

/// An event that is to be published again, by its first position.
#[derive(Debug, Clone, Copy)]
pub struct Earlier {
    pub sequence: i32,
    pub partition: i32,
    pub offset: i64,
    /// When it was written; 0 if that is unknown: then every event of the pair in another partition counts as later.
    pub time: Millis,
    pub event_id: Uuid,
    /// User and product; None for a delta event, which nothing overtakes.
    pub pair: Option<Uuid>,
}

/// What the log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Later {
    /// The event itself, at this position.
    Same(String),
    /// A later event of its user and product, at this position.
    Overtaken(String),
    /// The log no longer starts early enough to tell.
    Unknown,
}

/// Reads the log from the oldest of some events on.
pub struct LaterEvents {
    client: ClientConfig,
    /// The topics from that of the oldest event on, and up to where each is read.
    logs: Vec<(Layout, Vec<i64>)>,
    search: Search,
}

#[derive(Default)]
struct Search {
    events: Vec<Earlier>,
    by_pair: HashMap<Uuid, usize>,
    by_id: HashMap<Uuid, Vec<usize>>,
    found: HashMap<usize, Later>,
    /// Records of before this time are gone from some partition.
    cut_before: Option<Millis>,
    progress: Option<Arc<Progress>>,
}

impl LaterEvents {
    /// Prepares a search for `events`, of which each user and product has one. It begins with [`LaterEvents::read_on`].
    pub fn of(client: &ClientConfig, layouts: &[Layout], events: Vec<Earlier>) -> Self {
        let mut search = Search { events, ..Search::default() };
        for (number, event) in search.events.iter().enumerate() {
            search.by_id.entry(event.event_id).or_default().push(number);
            search.by_pair.extend(event.pair.map(|pair| (pair, number)));
        }
        let first = search.events.iter().map(|event| event.sequence).min().unwrap_or(i32::MAX);
        let logs = layouts.iter().filter(|layout| layout.sequence >= first);
        let logs = logs.map(|layout| (layout.clone(), Vec::new())).collect();
        Self { client: client.clone(), logs, search }
    }

    /// Returns what was found of the event with this number.
    pub fn found(&self, number: usize) -> Option<Later> {
        let (event, search) = (&self.search.events[number], &self.search);
        let is_unknown = event.pair.is_some() && search.cut_before.is_some_and(|time| event.time <= time);
        search.found.get(&number).cloned().or_else(|| is_unknown.then_some(Later::Unknown))
    }

    /// Reads what was written since the last call.
    pub async fn read_on(&mut self) -> anyhow::Result<()> {
        let progress = Arc::new(Progress::new("records of the log compared", None));
        for (layout, read_to) in &mut self.logs {
            if read_to.is_empty() && topic_check::describe(&self.client, &layout.topic).await?.is_none() {
                self.search.cut_before = Some(Millis::MAX);
                continue;
            }
            let (mut search, mut from, of) = (mem::take(&mut self.search), mem::take(read_to), layout.clone());
            search.progress = Some(Arc::clone(&progress));
            (self.search, *read_to) = LogReader::run(&self.client, &layout.topic, move |log| {
                search.read(log, &of, &mut from)?;
                Ok((search, from))
            })
            .await?;
            self.search.progress = None;
        }
        Ok(())
    }
}

impl Search {
    /// Reads a topic from `from` on; for the first time, from where a later event may be.
    fn read(&mut self, log: &LogReader, layout: &Layout, from: &mut Vec<i64>) -> anyhow::Result<()> {
        let ends = log.ends(layout.partitions)?;
        // Partitions whose older records are gone, until their first remaining one is read.
        let mut cut = HashSet::new();
        if from.is_empty() {
            let oldest = self.events.iter().map(|event| event.time).min().unwrap_or_default();
            let since = log.since(layout.partitions, oldest)?;
            *from = since.iter().zip(&ends).map(|(since, (_, end))| since.unwrap_or(*end)).collect();
            cut.extend((0..).zip(from.iter().zip(&ends)).filter(|(_, (f, (s, _)))| *s > 0 && *f <= s).map(|(p, _)| p));
        }
        // Records past a recorded end are not folded.
        let recorded = |p: usize, end: i64| layout.end_offsets.as_ref().map_or(end, |ends| ends[p].min(end));
        let to: Vec<i64> = ends.iter().enumerate().map(|(p, (_, end))| recorded(p, *end)).collect();
        let open: Vec<_> = (0..).zip(from.iter().copied()).filter(|(p, from)| *from < to[*p as usize]).collect();
        if cut.iter().any(|p| !open.iter().any(|(open, _)| open == p)) {
            self.cut_before = Some(Millis::MAX);
        }
        log.read(&open, |record| {
            let (partition, next) = (record.partition(), record.offset() + 1);
            let time = record.timestamp().to_millis().unwrap_or_default();
            if cut.remove(&partition) {
                self.cut_before = self.cut_before.max(Some(time));
            }
            if next <= to[partition as usize] {
                self.compare(layout, record, time);
            }
            next >= to[partition as usize]
        })?;
        *from = from.iter().zip(to).map(|(from, to)| to.max(*from)).collect();
        Ok(())
    }

    fn compare(&mut self, layout: &Layout, record: &BorrowedMessage<'_>, time: Millis) {
        if let Some(progress) = &self.progress {
            progress.add(1);
        }
        let Ok(event) = decode(record.key(), record.payload()) else { return };
        let (partition, offset) = (record.partition(), record.offset());
        let position = || format!("{}/{partition}/{offset}", layout.topic);
        for &number in self.by_id.get(&event.event_id.uuid()).into_iter().flatten() {
            let own = &self.events[number];
            if (own.sequence, own.partition, own.offset) != (layout.sequence, partition, offset) {
                self.found.insert(number, Later::Same(position()));
            }
        }
        let Some(user) = &event.user_id else { return };
        let Some(&number) = self.by_pair.get(&pair_key(&event.product_id, user)) else { return };
        let own = &self.events[number];
        let later = if (layout.sequence, partition) == (own.sequence, own.partition) {
            offset > own.offset
        } else {
            layout.sequence >= own.sequence && time >= own.time
        };
        if later && !matches!(self.found.get(&number), Some(Later::Same(_))) {
            self.found.insert(number, Later::Overtaken(position()));
        }
    }
}
