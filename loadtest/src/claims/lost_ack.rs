//! What a lost acknowledgement does: the broker has written the record, its response is lost, the
//! producer sends the record again. With idempotence the broker knows it by its sequence number and
//! writes it once.

use anyhow::{Context, ensure};
use like_testkit::{TestProxy, TestTopic, eventually};
use rdkafka::producer::{DefaultProducerContext, Producer, ThreadedProducer};

use super::{Finding, Lab};
use crate::records::{Entry, PATIENCE, client, send};

const LOST: i64 = 5;

pub async fn idempotence_drops_the_repeat(lab: &Lab) -> anyhow::Result<Finding> {
    let proxy = TestProxy::start_on(lab.proxy_port, &lab.behind_proxy).await;
    let without = copies(&proxy, &TestTopic::create(1).await, "false").await?;
    let with = copies(&proxy, &TestTopic::create(1).await, "true").await?;
    let measured = format!(
        "{LOST} records, each acknowledgement lost once: {without} records in the log without idempotence, {with} with it"
    );
    Ok(Finding { measured, holds: without == 2 * LOST && with == LOST })
}

/// Sends records one by one and loses each one's acknowledgement; returns the number in the log.
async fn copies(proxy: &TestProxy, topic: &TestTopic, idempotence: &str) -> anyhow::Result<i64> {
    let servers = proxy.addr.to_string();
    let settings = [
        ("bootstrap.servers", servers.as_str()),
        ("enable.idempotence", idempotence),
        ("acks", "all"),
        ("reconnect.backoff.ms", "10"),
        ("reconnect.backoff.max.ms", "100"),
        ("retry.backoff.ms", "10"),
    ];
    let producer: ThreadedProducer<DefaultProducerContext> = client(&settings).create()?;
    // The first one opens the connection and, with idempotence, fetches the producer's id.
    send(&producer, &topic.name, &Entry::new(Some("sku"), *b"first"))?;
    producer.flush(PATIENCE).context("publishing through the proxy")?;

    let written = || topic.end_offsets()[0];
    for _ in 0..LOST {
        let before = written();
        proxy.mute();
        send(&producer, &topic.name, &Entry::new(Some("sku"), *b"like"))?;
        eventually("the record arrives", async || (written() > before).then_some(())).await;
        ensure!(producer.in_flight_count() == 1, "the acknowledgement wasn't lost");
        // Restored, muted connections end.
        proxy.restore();
        producer.flush(PATIENCE).context("publishing again")?;
    }
    Ok(written() - 1)
}
