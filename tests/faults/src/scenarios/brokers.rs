//! Faults of a cluster of three brokers, with the topic that `setup` makes there: three replicas, two of which must have a
//! like before it is acknowledged. Each fault is under load, and ends when all replicas are in sync again.

use std::time::{Duration, Instant};

use futures::future::join_all;
use like_testkit::{Click, TestCluster, TestService, TestSystem, eventually, until};
use rand::RngExt;

use super::scene::{SHORT_SESSIONS, SOON_AGAIN, Scene, offsets, refused};
use crate::{Outcome, Run, deltas};

/// Longer than a like waits for its acknowledgement.
const SETTLED: Duration = Duration::from_secs(7);

/// Less than librdkafka's default for a request without an answer, a minute: brokers notice a silent one after 9 s, and the
/// aggregator after 10 s.
const FOUND: Duration = Duration::from_secs(40);

/// Likes while two brokers are down.
const USER: &str = "persistent";

struct Site {
    scene: Scene,
    aggregator: TestService,
    brokers: TestCluster,
}

/// The leader of a busy partition is killed; another one takes over, and is the next. Every second time it is the only one
/// that has the last likes: the others are stopped until some like's outcome is unknown.
pub async fn leaders(run: Run) -> Outcome {
    let mut site = Site::start(run).await;
    let (faults, partition) = (run.pick(1, 3), site.busy_partition().await);
    for fault in 0..faults {
        let leader = site.leader(partition).await;
        let others: Vec<_> = (1..=3).filter(|id| fault % 2 == 0 && *id != leader).collect();
        if !others.is_empty() {
            let before = site.unknown().await;
            others.iter().for_each(|id| site.brokers.freeze(*id));
            until("a like's outcome is unknown", async || site.unknown().await > before).await;
        }
        // Another producer has events in flight at that moment.
        let (kafka, topic) = (site.brokers.servers(), site.scene.system.topic.clone());
        let more = tokio::spawn(async move { deltas::publish(&kafka, &topic, "delta-only", 1_000, 1).await });
        site.brokers.kill(leader).await;
        others.iter().for_each(|id| site.brokers.thaw(*id));
        site.brokers.moves_leader(&site.scene.system.topic, partition, leader).await;
        site.goes_on().await;
        site.scene.others = site.scene.others.and(more.await.expect("delta events"));
        site.brokers.launch(leader);
        site.recovers().await;
    }
    site.outcome(faults).await
}

/// Each broker is stopped by SIGTERM, as in an upgrade, and restarted.
pub async fn rolled(run: Run) -> Outcome {
    let mut site = Site::start(run).await;
    for id in 1..=3 {
        let status = site.brokers.stop(id).await;
        assert!(status.code() == Some(143) || status.success(), "broker {id}: {status}");
        site.goes_on().await;
        site.brokers.launch(id);
        site.recovers().await;
    }
    site.outcome(3).await
}

/// The leader of a busy partition is stopped until a like's outcome is unknown, when it may still write the like, or until
/// another one has taken over, when it may not.
pub async fn frozen(run: Run) -> Outcome {
    let mut site = Site::start(run).await;
    let (partition, topic) = (site.busy_partition().await, site.scene.system.topic.clone());
    let faults = run.pick(1, 4);
    for fault in 0..faults {
        let leader = site.leader(partition).await;
        let before = site.unknown().await;
        let start = Instant::now();
        site.brokers.freeze(leader);
        if fault % 2 == 0 {
            site.brokers.moves_leader(&topic, partition, leader).await;
            site.goes_on().await;
            assert!(start.elapsed() < FOUND, "the new leader is found after {:?}", start.elapsed());
        } else {
            until("a like's outcome is unknown", async || site.unknown().await > before).await;
        }
        site.brokers.thaw(leader);
        site.recovers().await;
    }
    site.outcome(faults).await
}

/// The active controller is killed, and the others elect another one.
pub async fn controller(run: Run) -> Outcome {
    let mut site = Site::start(run).await;
    let faults = run.pick(1, 2);
    for _ in 0..faults {
        let active = site.brokers.controller().await;
        site.brokers.kill(active).await;
        let next = site.brokers.controller().await;
        assert_ne!(next, active);
        site.goes_on().await;
        site.brokers.launch(active);
        site.recovers().await;
    }
    site.outcome(faults).await
}

/// Two are killed: no like is acknowledged until one of them is back, since only one broker would have it.
pub async fn two_down(run: Run) -> Outcome {
    let mut site = Site::start(run).await;
    let mut dice = run.dice(6);
    let faults = run.pick(1, 2);
    for fault in 0..faults {
        let left = dice.random_range(1..=3);
        let down: Vec<_> = (1..=3).filter(|id| *id != left).collect();
        let before = refused(&site.scene.api).await;
        for id in &down {
            site.brokers.kill(*id).await;
        }
        until("a like is refused", async || refused(&site.scene.api).await > before).await;
        // Acknowledgements that were on their way when the second one died.
        tokio::time::sleep(SETTLED).await;
        let acknowledged = site.scene.crowd.acknowledged();
        // The one that is left still leads its partitions.
        let (client, key) = (site.scene.api.client(), format!("down-{fault}"));
        let products: Vec<_> = (0..20).map(|n| format!("product-{n}")).collect();
        let likes = join_all(products.iter().map(|product| client.try_click(USER, product, true, &key))).await;
        assert!(likes.iter().all(Option::is_none), "acknowledged, but only one broker has it: {likes:?}");
        assert_eq!(site.scene.crowd.acknowledged(), acknowledged, "acknowledged, but only one broker has it");
        down.iter().for_each(|id| site.brokers.launch(*id));
        site.recovers().await;
        for product in products {
            let acknowledged = client.click(USER, &product, true, &key).await;
            site.scene.others.note(Click { user: USER.to_owned(), product, liked: true, acknowledged });
        }
    }
    site.outcome(2 * faults).await
}

impl Site {
    async fn start(run: Run) -> Self {
        let brokers = TestCluster::start().await;
        let mut system = TestSystem::new().await;
        system.set("KAFKA_BOOTSTRAP_SERVERS", &brokers.servers());
        let scene = Scene::on(run, system, &[SHORT_SESSIONS, SOON_AGAIN].concat()).await;
        brokers.in_sync(&scene.system.topic).await;
        let aggregator = scene.system.aggregator(&[]).await;
        let mut site = Self { scene, aggregator, brokers };
        site.goes_on().await;
        site
    }

    /// The partition with the most records, of those that are folded.
    async fn busy_partition(&self) -> usize {
        let offsets = offsets(&self.scene.system).await;
        (0..offsets.len()).max_by_key(|partition| offsets[*partition]).expect("a partition")
    }

    async fn leader(&self, partition: usize) -> i32 {
        let topic = &self.scene.system.topic;
        eventually("the partition has a leader", async || self.brokers.leader(topic, partition)).await
    }

    /// The number of likes whose outcome is unknown.
    async fn unknown(&self) -> f64 {
        self.scene.api.metric("messaging_client_sent_messages_total", "\"unknown\"").await
    }

    /// Likes are acknowledged and counted, in each partition.
    async fn goes_on(&mut self) {
        self.scene.acknowledges(200).await;
        self.scene.counts_everywhere().await;
        assert_eq!(self.aggregator.process.status(), None, "the aggregator has exited");
    }

    /// All replicas are in sync, and likes are acknowledged and counted.
    async fn recovers(&mut self) {
        self.brokers.in_sync(&self.scene.system.topic).await;
        self.goes_on().await;
    }

    async fn outcome(self, faults: usize) -> Outcome {
        // Dropped in reverse order.
        let Self { brokers: _brokers, aggregator: _aggregator, scene } = self;
        scene.outcome(faults).await
    }
}
