//! An aggregator inside the test's own process: the real one, but with a test's patience. And
//! likes in partitions of a test's choice.

#![allow(dead_code, reason = "each test file takes what it needs")]

pub mod drill;
pub mod sources;

use std::ops::Deref;
use std::time::Duration;

use clap::Parser;
use like_aggregator::cli::{Cli, CliCommand};
use like_aggregator::timing::Timing;
use like_testkit::process::free_addr;
use like_testkit::{AdminPort, Clicking, Crowd, TestClient, TestDatabase, TestSystem, TestTopic, event, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Intervals of moments in place of half minutes.
pub const QUICK: Timing = Timing {
    refused_retry: Duration::from_millis(200),
    beyond_end: Duration::from_secs(3),
    compare_offsets: Duration::from_millis(200),
    upkeep: Duration::from_millis(200),
    topic_check: Duration::from_millis(200),
};

/// The traffic of a drill: some products again and again, some that nobody comes back to.
pub fn passing_crowd(users: usize, apis: &[TestClient]) -> Clicking {
    Crowd { products: 5, passing: true, pause: Duration::from_millis(10), ..Crowd::new(1, users, 0) }.start(apis)
}

/// Counts until it is dropped.
pub struct Counting {
    port: AdminPort,
    stop: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Counting {
    /// Starts `run` with the system's settings; it may not be ready yet.
    pub fn start(system: &TestSystem, timing: Timing) -> Self {
        let addr = free_addr().to_string();
        let setting = |name| system.settings().into_iter().find(|(n, _)| n == name).expect("a setting").1;
        let [kafka, group, database] = ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_GROUP_ID", "DATABASE_URL"].map(setting);
        let flags = [
            ["--kafka-bootstrap-servers", &kafka],
            ["--kafka-group-id", &group],
            ["--kafka-topic", &system.topic],
            ["--database-url", &database],
            ["--admin-addr", &addr],
        ];
        let file = system.settings().into_iter().find(|(n, _)| n == "KAFKA_CONFIG_FILE").map(|(_, path)| path);
        let file = file.iter().flat_map(|path| ["--kafka-config-file", path]);
        let flags = flags.into_iter().flatten().chain(file);
        let settings = Cli::parse_from(["like-aggregator", "run"].into_iter().chain(flags));
        let CliCommand::Run(settings) = settings.command else { unreachable!("run was asked for") };
        let stop = CancellationToken::new();
        let task = tokio::spawn(like_aggregator::run::run(settings, timing, stop.clone()));
        Self { port: AdminPort::new(format!("http://{addr}")), stop, task: Some(task) }
    }

    /// The same, once it is ready.
    pub async fn ready(system: &TestSystem, timing: Timing) -> Self {
        let counting = Self::start(system, timing);
        eventually("ready", async || counting.port.is_ready().await.then_some(())).await;
        counting
    }

    /// Ends it, and answers how it has ended.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.take().expect("not stopped yet").await.expect("no panic")
    }
}

impl Counting {
    /// Waits until it ends by itself; answers why.
    pub async fn ended(mut self) -> String {
        let task = self.task.take().expect("not stopped yet");
        let ended = tokio::time::timeout(Duration::from_secs(60), task).await.expect("it ends within a minute");
        let result = ended.expect("no panic");
        format!("{:#}", result.expect_err("it ends with a reason"))
    }
}

impl Deref for Counting {
    type Target = AdminPort;

    fn deref(&self) -> &AdminPort {
        &self.port
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A topic, and a system set up for it.
pub async fn set_up(partitions: i32) -> (TestTopic, TestSystem) {
    let topic = TestTopic::create(partitions).await;
    let system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", &partitions.to_string()]).await;
    (topic, system)
}

/// Publishes a like of each of these users for the product `p<partition>`, in that partition.
pub fn publish(topic: &TestTopic, partition: i32, users: impl IntoIterator<Item = String>) {
    let product = format!("p{partition}");
    for user in users {
        let value = event(&product, Some(&user), true).to_json();
        topic.publish(Some(partition), Some(product.as_bytes()), Some(&value));
    }
    topic.flush();
}

/// Names of users.
pub fn users(name: &str, number: usize) -> impl Iterator<Item = String> {
    (0..number).map(move |n| format!("{name}-{n}"))
}
