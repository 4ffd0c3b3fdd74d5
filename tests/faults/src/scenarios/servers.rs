//! kill -9 of the broker, of PostgreSQL, and of both, with a restart a while later, under load. Without PostgreSQL likes
//! are acknowledged and counted later; without a broker they are refused and retried.

use std::time::{Duration, Instant};

use like_testkit::{Server, TestServers, until};

use super::scene::{SHORT_SESSIONS, SOON_AGAIN, Scene, refused};
use crate::{Outcome, Run, deltas};

/// Servers that are down together. The short form skips the first: a broker takes long to start.
const GONE: [&[Server]; 3] = [&[Server::Kafka], &[Server::Postgres], &[Server::Kafka, Server::Postgres]];

pub async fn servers(run: Run) -> Outcome {
    let down = Duration::from_secs(run.pick(3, 30));
    let servers = TestServers::start().await;
    let mut scene = Scene::on(run, servers.system().await, &[SHORT_SESSIONS, SOON_AGAIN].concat()).await;
    let mut aggregator = scene.system.aggregator(&[]).await;
    let times = &GONE[run.pick(1, 0)..];
    for gone in times {
        scene.counts().await;
        let refused_before = refused(&scene.api).await;
        // Another producer has events in flight at that moment.
        let (kafka, topic) = (servers.kafka.clone(), scene.system.topic.clone());
        let more = tokio::spawn(async move { deltas::publish(&kafka, &topic, "delta-only", 1_000, 1).await });
        for server in *gone {
            servers.kill(*server).await;
        }
        let since = Instant::now();
        if gone.contains(&Server::Postgres) {
            aggregator.waits_for("postgresql", "").await;
        }
        if gone.contains(&Server::Kafka) {
            until("a like is refused", async || refused(&scene.api).await > refused_before).await;
        } else {
            scene.acknowledges(200).await;
        }
        tokio::time::sleep(down.saturating_sub(since.elapsed())).await;
        if !gone.contains(&Server::Kafka) {
            scene.acknowledges(200).await;
        }
        for server in *gone {
            servers.restart(*server).await;
        }
        scene.others = scene.others.and(more.await.expect("delta events"));
        aggregator.wait_until_ready().await;
    }
    scene.acknowledges(50).await;
    scene.outcome(times.concat().len()).await
}
