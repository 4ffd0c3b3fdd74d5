//! Reading leaves the log unchanged. Each group has its own position; resetting it reads everything
//! again; a group without one starts where `auto.offset.reset` says, which is why like-aggregator
//! stores its positions itself and makes a reset an error.

use std::collections::HashSet;

use anyhow::{Context, bail, ensure};
use like_testkit::{TestSystem, TestTopic};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::{Finding, Lab, event};
use crate::backlog::counts;
use crate::records::{Entry, HISTORY, PATIENCE, apply, batches, group, next, publish, read_to_end, reader, store};

const RECORDS: u32 = 1_000;
/// How far the slower of two groups gets.
const SLOW: u32 = 300;
/// Records that come after a new group has started.
const LATER: u32 = 100;

/// Claim 6.
pub async fn log_can_be_replayed(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = filled(lab, 1).await?;
    let stored = || reader(&topic.name, [0], &topic.name, "earliest", Offset::Stored);
    let consumer = stored()?;
    let first = read_to_end(&consumer, 1)?;
    consumer.commit_consumer_state(CommitMode::Sync)?;
    drop(consumer);
    let consumer = stored()?;
    let second = read_to_end(&consumer, 1)?;
    let (start, end) = consumer.fetch_watermarks(&topic.name, 0, PATIENCE)?;
    let mut beginning = TopicPartitionList::new();
    beginning.add_partition_offset(&topic.name, 0, Offset::Offset(start))?;
    consumer.commit(&beginning, CommitMode::Sync)?;
    drop(consumer);
    let third = read_to_end(&stored()?, 1)?;

    let mut counted = Vec::new();
    for log in [&first, &third] {
        let system = TestSystem::set_up_on(&topic).await;
        apply(&mut store(&topic.name, &system.database, HISTORY).await?, &batches(log, 100)?).await?;
        counted.push(counts(&system.database).await?);
    }
    let same = first == third && counted[0] == counted[1] && !counted[0].is_empty();
    let measured = format!(
        "a group read {}, then {}; the log still holds {}; with its offsets reset it read {}, {}",
        first.len(),
        second.len(),
        end - start,
        third.len(),
        if same { "the same records, and the counts are the same" } else { "and something else" }
    );
    let expected = (first.len(), second.len(), end - start) == (RECORDS as usize, 0, i64::from(RECORDS));
    Ok(Finding { measured, holds: expected && same })
}

/// Claim 7.
pub async fn groups_are_independent(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = filled(lab, 1).await?;
    let (fast, slow) = (group(), group());
    let read = |group: &str, most: u32| {
        let reader = reader(&topic.name, [0], group, "earliest", Offset::Stored)?;
        let mut read = 0;
        while read < most && next(&reader)?.is_some() {
            read += 1;
        }
        reader.commit_consumer_state(CommitMode::Sync)?;
        Ok::<_, anyhow::Error>((read, i64::from(RECORDS) - committed(&reader)?))
    };
    let (slow_read, slow_lag) = read(&slow, SLOW)?;
    let (fast_read, fast_lag) = read(&fast, RECORDS)?;
    let (rest, rest_lag) = read(&slow, RECORDS - SLOW)?;
    let measured = format!(
        "one group has read {slow_read} of {RECORDS} records (lag {slow_lag}) when another reads all {fast_read} \
         (lag {fast_lag}); the first then reads the other {rest} (lag {rest_lag})"
    );
    let holds = (slow_read, slow_lag, fast_read, fast_lag, rest, rest_lag)
        == (SLOW, i64::from(RECORDS - SLOW), RECORDS, 0, RECORDS - SLOW, 0);
    Ok(Finding { measured, holds })
}

/// Claim 8.
pub async fn new_group_needs_a_start(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = filled(lab, 4).await?;
    let start = |reset| reader(&topic.name, 0..4, &group(), reset, Offset::Stored);
    let (earliest, latest, error) = (start("earliest")?, start("latest")?, start("error")?);
    // Both know their position before anything is added.
    let there = (read_to_end(&earliest, topic.partitions)?.len(), read_to_end(&latest, topic.partitions)?.len());
    let later = likes(lab, RECORDS..RECORDS + LATER);
    publish(&topic.name, &[], later.clone())?;
    let later: HashSet<_> = later.into_iter().map(|record| record.value).collect();
    let came = (read_later(&earliest, &later)?, read_later(&latest, &later)?);
    let refused = match error.poll(PATIENCE).context("no answer to auto.offset.reset=error")? {
        Err(KafkaError::MessageConsumption(code)) => code == RDKafkaErrorCode::AutoOffsetReset,
        Err(error) => bail!(error),
        Ok(_) => false,
    };
    let measured = format!(
        "of {RECORDS} records there and {LATER} after: earliest read {} and {}, latest {} and {}; error (ours) {}",
        there.0,
        came.0,
        there.1,
        came.1,
        if refused { "read none and said so" } else { "read all the same" }
    );
    let all = (RECORDS as usize, LATER as usize);
    Ok(Finding { measured, holds: (there.0, came.0) == all && (there.1, came.1) == (0, all.1) && refused })
}

/// Reads until it has seen all of `later`; returns the number of records read.
fn read_later(reader: &BaseConsumer, later: &HashSet<Vec<u8>>) -> anyhow::Result<usize> {
    let (mut read, mut seen) = (0, HashSet::new());
    while seen.len() < later.len() {
        let Some(record) = next(reader)? else { continue };
        read += 1;
        if later.contains(&record.value) {
            seen.insert(record.value);
        }
        ensure!(read <= (RECORDS + LATER) as usize, "records come twice");
    }
    Ok(read)
}

/// A topic with the first records in it.
async fn filled(lab: &Lab, partitions: i32) -> anyhow::Result<TestTopic> {
    let topic = TestTopic::create(partitions).await;
    publish(&topic.name, &[("enable.idempotence", "true")], likes(lab, 0..RECORDS))?;
    Ok(topic)
}

fn likes(lab: &Lab, users: std::ops::Range<u32>) -> Vec<Entry> {
    let mut rng = lab.rng();
    // Different users take different random numbers, so that ids differ.
    let events = (0..users.end).map(|user| event(&mut rng, user % 50, Some(user), true));
    events.skip(users.start as usize).map(|event| Entry::from(&event)).collect()
}

/// The group's committed offset of the only partition.
fn committed(reader: &BaseConsumer) -> anyhow::Result<i64> {
    let list = reader.committed(PATIENCE)?;
    list.elements().first().and_then(|one| one.offset().to_raw()).context("no committed offset")
}
