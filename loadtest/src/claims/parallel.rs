//! The partitions of a topic bound how many consumers of a group can work: of four consumers one works
//! on one partition, and all work on four. Each event costs a transaction on a database ten
//! milliseconds away, which a consumer mostly waits for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use like_testkit::TestTopic;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::groups::GroupInfo;

use super::Finding;
use crate::records::{Entry, PATIENCE, client, connect, naive_database, publish};

const CONSUMERS: usize = 4;
const EVENTS: usize = 400;
/// Four times as fast is what there is to gain.
const LEAST_SPEEDUP: f64 = 2.5;

const TABLE: &str = "CREATE TABLE naive AS SELECT consumer, 0::bigint AS n FROM generate_series(0, 3) AS consumer";
const WORK: &str = "UPDATE naive SET n = n + 1 FROM pg_sleep(0.010) WHERE consumer = $1";

struct Run {
    seconds: f64,
    /// Consumers that got any event.
    busy: usize,
}

pub async fn consumers_share_partitions() -> anyhow::Result<Finding> {
    let (one, four) = (run(1).await?, run(CONSUMERS).await?);
    let speedup = one.seconds / four.seconds;
    let measured = format!(
        "{CONSUMERS} consumers of a group: {} works on 1 partition, {} on {CONSUMERS} partitions, {speedup:.1} times as fast",
        one.busy, four.busy
    );
    Ok(Finding { measured, holds: one.busy == 1 && four.busy == CONSUMERS && speedup >= LEAST_SPEEDUP })
}

async fn run(partitions: usize) -> anyhow::Result<Run> {
    let topic = TestTopic::create(partitions as i32).await;
    let database = naive_database(TABLE).await?;
    // Spread evenly, without the partitioner.
    let event = |n| Entry { partition: Some((n % partitions) as i32), ..Entry::new(None, *b"like") };
    let events: Vec<_> = (0..EVENTS).map(event).collect();
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));

    thread::scope(|scope| {
        let work = |number| work(&topic, &database.url, number, &done, &stop);
        let workers: Vec<_> = (0..CONSUMERS).map(|number| scope.spawn(move || work(number))).collect();
        let seconds = (|| {
            wait_until_joined(&topic)?;
            let start = Instant::now();
            publish(&topic.name, &[], events)?;
            while done.load(Ordering::Relaxed) < EVENTS {
                ensure!(start.elapsed() < PATIENCE, "{done:?} of {EVENTS} events in {PATIENCE:?}");
                thread::sleep(Duration::from_millis(1));
            }
            Ok(start.elapsed().as_secs_f64())
        })();
        stop.store(true, Ordering::Relaxed);
        let counts = workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a consumer panicked"))?);
        let counts = counts.collect::<anyhow::Result<Vec<usize>>>()?;
        Ok(Run { seconds: seconds?, busy: counts.iter().filter(|count| **count > 0).count() })
    })
}

/// Waits until the group has all consumers and has assigned the partitions to them.
fn wait_until_joined(topic: &TestTopic) -> anyhow::Result<()> {
    let client: BaseConsumer = client(&[]).create()?;
    let start = Instant::now();
    loop {
        let groups = client.fetch_group_list(Some(&topic.name), PATIENCE);
        let complete = |group: &GroupInfo| group.state() == "Stable" && group.members().len() == CONSUMERS;
        if groups.as_ref().is_ok_and(|list| list.groups().iter().any(complete)) {
            return Ok(());
        }
        // Until a broker's first group has a coordinator, this is an error.
        ensure!(start.elapsed() < PATIENCE, "the group isn't complete after {PATIENCE:?}: {:?}", groups.err());
        thread::sleep(Duration::from_millis(20));
    }
}

/// One consumer of the group, until `stop`; returns the number of its events.
fn work(topic: &TestTopic, url: &str, number: usize, done: &AtomicUsize, stop: &AtomicBool) -> anyhow::Result<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sql = runtime.block_on(connect(url)).context("PostgreSQL")?;
    let settings = [
        ("group.id", topic.name.as_str()),
        ("auto.offset.reset", "earliest"),
        // A rebalance is noticed with a heartbeat.
        ("heartbeat.interval.ms", "100"),
    ];
    let consumer: BaseConsumer = client(&settings).create()?;
    consumer.subscribe(&[&topic.name])?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(record) = consumer.poll(Duration::from_millis(20)) else { continue };
        record?;
        let update = sqlx::query(WORK).bind(number as i32).execute(&mut sql);
        runtime.block_on(update)?;
        count += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(count)
}
