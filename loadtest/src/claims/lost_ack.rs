//! Shows what a lost acknowledgement does: the broker has written the record, its answer gets lost
//! on the way, the producer sends the record again. With idempotence the broker knows it by its
//! sequence number and writes it once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rdkafka::producer::{DefaultProducerContext, Producer, ThreadedProducer};

use super::Finding;
use super::lab::{Lab, PATIENCE, Topic};
use super::proxy::Proxy;
use super::records::{Entry, send};

const LOST: i64 = 5;

pub async fn idempotence_drops_the_repeat(lab: &Lab) -> anyhow::Result<Finding> {
    let proxy = Proxy::start(&lab.proxy, &lab.behind_proxy)?;
    let without = copies(lab, &proxy, &lab.topic(1).await?, "false")?;
    let with = copies(lab, &proxy, &lab.topic(1).await?, "true")?;
    let measured = format!(
        "{LOST} records, each acknowledgement lost once: {without} records in the log without idempotence, {with} with it"
    );
    Ok(Finding { measured, holds: without == 2 * LOST && with == LOST })
}

/// Sends records one by one and loses each one's acknowledgement; answers how many are in the log.
fn copies(lab: &Lab, proxy: &Proxy, topic: &Topic, idempotence: &str) -> anyhow::Result<i64> {
    let settings = [
        ("bootstrap.servers", lab.proxy.as_str()),
        ("enable.idempotence", idempotence),
        ("acks", "all"),
        ("reconnect.backoff.ms", "10"),
        ("reconnect.backoff.max.ms", "100"),
        ("retry.backoff.ms", "10"),
    ];
    let producer: ThreadedProducer<DefaultProducerContext> = lab.client(&settings).create()?;
    // The first one makes the connection and, with idempotence, gets the producer its id.
    send(&producer, topic, &Entry::new(Some("sku"), *b"first"))?;
    producer.flush(PATIENCE).context("publishing through the proxy")?;

    // Asked behind the proxy's back.
    let witness: ThreadedProducer<DefaultProducerContext> = lab.client(&[]).create()?;
    let written = || witness.client().fetch_watermarks(&topic.name, 0, PATIENCE).map(|(_, end)| end);
    for _ in 0..LOST {
        let before = written()?;
        proxy.lose_answers();
        send(&producer, topic, &Entry::new(Some("sku"), *b"like"))?;
        let start = Instant::now();
        while written()? == before {
            ensure!(start.elapsed() < PATIENCE, "the record doesn't arrive");
            sleep(Duration::from_millis(5));
        }
        ensure!(producer.in_flight_count() == 1, "the acknowledgement wasn't lost");
        proxy.cut();
        producer.flush(PATIENCE).context("publishing again")?;
    }
    Ok(written()? - 1)
}
