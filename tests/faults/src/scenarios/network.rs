//! Connections to the broker and the database are cut, delayed and frozen in a seeded order, and answers to COMMIT are
//! lost: a batch that had committed is retried and fenced.

use std::time::Duration;

use like_testkit::{TestProxy, TestServers, TestService, eventually, server_of, until};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::scene::{SHORT_SESSIONS, SOON_AGAIN, Scene, refused};
use crate::{Outcome, Run};

/// COMMIT as sqlx sends it: a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Cut,
    Delay,
    Freeze,
}

#[derive(Clone, Copy)]
enum Hit {
    Broker(Fault),
    Database(Fault),
    Commit,
}

/// How long a fault lasts after its first effect.
const LASTS: Duration = Duration::from_secs(3);

struct Network {
    scene: Scene,
    aggregator: TestService,
    broker: TestProxy,
    database: TestProxy,
    /// The broker's address, past the proxy.
    kafka: String,
    quick: bool,
}

pub async fn network(run: Run) -> Outcome {
    let mut dice = run.dice(2);
    let servers = TestServers::start().await;
    let (broker, database) = (servers.kafka_proxy().await, TestProxy::start(server_of(&servers.postgres)).await);
    let mut system = servers.system().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &broker.addr.to_string());
    let through = system.database.url.replace(server_of(&servers.postgres), &database.addr.to_string());
    system.set("DATABASE_URL", &through);
    let scene = Scene::on(run, system, &[SHORT_SESSIONS, SOON_AGAIN].concat()).await;
    let aggregator = scene.system.aggregator(&[]).await;
    let (kafka, quick) = (servers.kafka.clone(), run.quick);
    let mut network = Network { scene, aggregator, broker, database, kafka, quick };

    let hits = hits(run, &mut dice);
    for hit in &hits {
        network.scene.add_deltas(&network.kafka, 200).await;
        network.scene.counts().await;
        match hit {
            Hit::Broker(fault) => network.broker(*fault, &mut dice).await,
            Hit::Database(fault) => network.database(*fault, &mut dice).await,
            Hit::Commit => network.commit().await,
        }
        network.scene.acknowledges(20).await;
        network.aggregator.wait_until_ready().await;
    }
    network.scene.outcome(hits.len()).await
}

/// The faults in their order.
fn hits(run: Run, dice: &mut StdRng) -> Vec<Hit> {
    let times = run.pick(1, 3);
    let mut faults = [Fault::Cut, Fault::Delay, Fault::Freeze];
    let mut hits = vec![Hit::Commit; run.pick(3, 15)];
    for round in 0..times {
        faults.shuffle(dice);
        // The short form has one broker fault.
        hits.extend(faults.iter().take(run.pick(1, 3)).map(|fault| Hit::Broker(*fault)));
        // A batch's deadline is 30 s: freeze the database once.
        let worth = |fault: &&Fault| round == 0 || **fault != Fault::Freeze;
        hits.extend(faults.iter().filter(worth).map(|fault| Hit::Database(*fault)));
    }
    hits.shuffle(dice);
    hits
}

impl Network {
    async fn broker(&self, fault: Fault, dice: &mut StdRng) {
        let before = refused(&self.scene.api).await;
        match fault {
            Fault::Cut => self.broker.cut(),
            Fault::Freeze => self.broker.freeze(),
            Fault::Delay => {
                let by = Duration::from_millis(dice.random_range(50..200));
                let name = "messaging_client_operation_duration_seconds";
                slows(&self.scene.api, name, 50.0, by, &self.broker).await;
                return;
            }
        }
        until("a like is refused", async || refused(&self.scene.api).await > before).await;
        tokio::time::sleep(if self.quick { Duration::ZERO } else { LASTS }).await;
        self.broker.restore();
    }

    async fn database(&self, fault: Fault, dice: &mut StdRng) {
        let retries = async || self.aggregator.metric("likes_retries_total", "").await;
        let before = retries().await;
        match fault {
            Fault::Cut => self.database.cut(),
            Fault::Freeze => self.database.freeze(),
            Fault::Delay => {
                let by = Duration::from_millis(dice.random_range(10..100));
                slows(&self.aggregator, "messaging_process_duration_seconds", 4.0, by, &self.database).await;
                return;
            }
        }
        // Likes are acknowledged without the database.
        self.scene.acknowledges(200).await;
        if fault == Fault::Cut || !self.quick {
            self.aggregator.waits_for("postgresql", "").await;
        }
        self.database.restore();
        until("a batch is retried", async || retries().await > before).await;
    }

    /// The retry is fenced, which shows that the batch had committed.
    async fn commit(&self) {
        let fences = async || self.aggregator.metric("likes_fences_total", "").await;
        let (lost, fenced) = (self.database.answers_lost(), fences().await);
        self.database.lose_answer_to(COMMIT);
        until("the answer to a COMMIT is lost", async || self.database.answers_lost() > lost).await;
        until("the batch is fenced", async || fences().await > fenced).await;
    }
}

/// Delays a connection until the next `operations` in this histogram have taken that much longer.
async fn slows(service: &TestService, histogram: &str, operations: f64, by: Duration, line: &TestProxy) {
    let measured = async || {
        let count = service.metric(&format!("{histogram}_count"), "").await;
        (service.metric(&format!("{histogram}_sum"), "").await, count)
    };
    line.delay(by);
    // Excludes operations that began before the delay.
    let (sum_before, count_before) = measured().await;
    let mean = eventually("operations on a slow line", async || {
        let (sum, count) = measured().await;
        let (sum, count) = (sum - sum_before, count - count_before);
        (count >= operations).then(|| sum / count)
    })
    .await;
    assert!(mean >= by.as_secs_f64(), "{histogram}: {mean} s on a line slowed by {by:?}");
    line.restore();
}
