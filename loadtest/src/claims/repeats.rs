//! Shows the two ways to drop duplicates against each other: DEDUP=batch spares the table of event
//! ids and lets through what comes again in a later batch; DEDUP=history drops all of it. Both by
//! the services' own store, on the same log.

use std::time::Instant;

use like_aggregator::fold::{Batch, Dedup};

use super::Finding;
use super::lab::{HISTORY, Lab, Topic};
use super::records::{apply, batches};
use crate::database::Database;
use crate::generate::{EventIds, Generator, Shape, product_id};
use crate::log;
use crate::reference::{Reference, Repeats};

const EVENTS: u64 = 100_000;
const PRODUCTS: u32 = 1_000;
const USERS: u32 = 20_000;
const BATCH: usize = 10_000;
/// Both ways in turn, this often: a machine that does something else for a while disturbs both.
const ROUNDS: usize = 3;
const LEAST_GAIN: f64 = 1.05;

/// What one way makes of a log.
#[derive(Default)]
struct Way {
    seconds: f64,
    dropped: u64,
    /// Products whose count is not what it must be.
    wrong: usize,
}

pub async fn history_against_batch(lab: &Lab) -> anyhow::Result<Finding> {
    let users = Log::fill(lab, Some(USERS)).await?;
    let (mut history, mut batch) = (Way::default(), Way::default());
    for _ in 0..ROUNDS {
        users.count(lab, HISTORY, &mut history).await?;
        users.count(lab, Dedup::Batch, &mut batch).await?;
    }
    // Where no user's wish says what is so already, each duplicate that is let through counts.
    let deltas = Log::fill(lab, None).await?;
    let (mut delta_history, mut delta_batch) = (Way::default(), Way::default());
    deltas.count(lab, HISTORY, &mut delta_history).await?;
    deltas.count(lab, Dedup::Batch, &mut delta_batch).await?;

    let (gain, repeats) = (history.seconds / batch.seconds, users.reference.repeats);
    let measured = format!(
        "batch-only takes 1/{gain:.2} of the time of history; of {repeats} duplicates within 20,000 events it drops {}, \
         history {}; wrong counts of {PRODUCTS} products: {} with users, {} with delta events, history {}",
        batch.dropped,
        history.dropped,
        batch.wrong,
        delta_batch.wrong,
        history.wrong + delta_history.wrong
    );
    let all = history.dropped == repeats && history.wrong == 0 && delta_history.wrong == 0;
    let some = 0 < batch.dropped && batch.dropped < repeats && delta_batch.wrong > 0;
    Ok(Finding { measured, holds: all && some && gain >= LEAST_GAIN })
}

/// A log, and what it must be counted as.
struct Log {
    topic: Topic,
    batches: Vec<Batch>,
    reference: Reference,
}

impl Log {
    async fn fill(lab: &Lab, users: Option<u32>) -> anyhow::Result<Self> {
        let topic = lab.topic(1).await?;
        let mut reference = Reference::new(PRODUCTS);
        let shape = Shape {
            events: EVENTS,
            products: PRODUCTS,
            users,
            hot_percent: 0,
            event_ids: EventIds::V7,
            seed: lab.seed,
        };
        log::fill(&lab.brokers, &topic.name, Generator::new(shape).inspect(|event| reference.add(event)))?;
        let batches = batches(&lab.read_all(&topic)?, BATCH)?;
        Ok(Self { topic, batches, reference })
    }

    /// Counts it into a new database; adds the time, puts down the rest.
    async fn count(&self, lab: &Lab, dedup: Dedup, way: &mut Way) -> anyhow::Result<()> {
        let mut database = lab.set_up(&self.topic).await?;
        let mut store = Lab::store(&self.topic, &database, dedup)?;
        store.ping().await?;
        let start = Instant::now();
        way.dropped = apply(&mut store, &self.batches).await?;
        way.seconds += start.elapsed().as_secs_f64();
        way.wrong = self.wrong(&mut database).await?;
        Ok(())
    }

    async fn wrong(&self, database: &mut Database) -> anyhow::Result<usize> {
        let counts = database.counts().await?;
        let count = |product: &str| {
            counts.binary_search_by(|row| row.product_id.as_str().cmp(product)).map_or(0, |at| counts[at].count)
        };
        let expected = self.reference.counts(Repeats::Dropped);
        Ok((0..).zip(expected).filter(|(number, range)| count(&product_id(*number)) != range.least).count())
    }
}
