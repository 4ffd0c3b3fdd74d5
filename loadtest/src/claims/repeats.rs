//! The two ways to drop duplicates: DEDUP=batch needs no table of event ids and lets through what is
//! repeated in a later batch; DEDUP=history drops every repeat. Both by the service's transaction, on
//! the same log.

use std::time::Instant;

use like_aggregator::fold::Batch;
use like_testkit::TestSystem;

use super::{Finding, Lab};
use crate::backlog::{Backlog, Mode, counts};
use crate::events::product_id;
use crate::expected::Repeats;
use crate::records::{apply, batches, read_all, store};

const BATCH: usize = 10_000;
/// Both ways take turns, so that other load on the machine affects both.
const ROUNDS: usize = 3;
const LEAST_GAIN: f64 = 1.05;

#[derive(Default)]
struct Outcome {
    seconds: f64,
    dropped: u64,
    /// Products with a wrong count.
    wrong: usize,
}

pub async fn history_against_batch(lab: &Lab) -> anyhow::Result<Finding> {
    let fill = async |mode| {
        let backlog = Backlog::fill(1, lab.shape(mode)).await?;
        let batches = batches(&read_all(&backlog.topic.name, 1)?, BATCH)?;
        anyhow::Ok((backlog, batches))
    };
    let users = fill(Mode::HistoryUser).await?;
    let (mut history, mut batch) = (Outcome::default(), Outcome::default());
    for _ in 0..ROUNDS {
        count(&users, Mode::HistoryUser, &mut history).await?;
        count(&users, Mode::BatchUser, &mut batch).await?;
    }
    // Without the state of a user, each repeat that is let through counts.
    let deltas = fill(Mode::HistoryDelta).await?;
    let (mut delta_history, mut delta_batch) = (Outcome::default(), Outcome::default());
    count(&deltas, Mode::HistoryDelta, &mut delta_history).await?;
    count(&deltas, Mode::BatchDelta, &mut delta_batch).await?;

    let (gain, repeats) = (history.seconds / batch.seconds, users.0.expected.repeats);
    let measured = format!(
        "batch-only takes 1/{gain:.2} of the time of history; of {repeats} duplicates within 20,000 events it drops {}, \
         history {}; wrong counts of {} products: {} with users, {} with delta events, history {}",
        batch.dropped,
        history.dropped,
        users.0.shape.products,
        batch.wrong,
        delta_batch.wrong,
        history.wrong + delta_history.wrong
    );
    let all = history.dropped == repeats && history.wrong == 0 && delta_history.wrong == 0;
    let some = 0 < batch.dropped && batch.dropped < repeats && delta_batch.wrong > 0;
    Ok(Finding { measured, holds: all && some && gain >= LEAST_GAIN })
}

/// Counts the log into a new database; adds the time and replaces the rest.
async fn count((backlog, batches): &(Backlog, Vec<Batch>), mode: Mode, outcome: &mut Outcome) -> anyhow::Result<()> {
    let system = TestSystem::set_up_on(&backlog.topic).await;
    let mut store = store(&backlog.topic.name, &system.database, mode.dedup()).await?;
    store.ping().await?;
    let start = Instant::now();
    outcome.dropped = apply(&mut store, batches).await?;
    outcome.seconds += start.elapsed().as_secs_f64();
    let counts = counts(&system.database).await?;
    let count = |product: &str| {
        counts.binary_search_by(|(id, ..)| id.as_str().cmp(product)).map_or(0, |position| counts[position].1)
    };
    let expected = (0..).zip(backlog.expected.counts(Repeats::Dropped));
    outcome.wrong = expected.filter(|(number, range)| !range.contains(&count(&product_id(*number)))).count();
    Ok(())
}
