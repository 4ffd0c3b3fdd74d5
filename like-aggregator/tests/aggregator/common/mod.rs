//! What several files share: an aggregator inside the test's own process, likes in partitions of a
//! test's choice, a worker's transaction.

pub mod sources;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use like_aggregator::apply::transaction::Store;
use like_aggregator::cli::{Cli, CliCommand};
use like_aggregator::fold::Dedup;
use like_aggregator::timing::Timing;
use like_common::database::{DatabaseUrl, SCHEMA};
pub use like_testkit::drill;
use like_testkit::process::free_addr;
use like_testkit::{
    AdminPort, Clicking, Crowd, TestClient, TestDatabase, TestService, TestSystem, TestTopic, event, until,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Intervals of moments in place of half minutes.
pub const QUICK: Timing = Timing {
    refused_retry: Duration::from_millis(200),
    beyond_end: Duration::from_secs(3),
    compare_offsets: Duration::from_millis(200),
    rejoin: Duration::from_secs(60),
    upkeep: Duration::from_millis(200),
    topic_check: Duration::from_millis(200),
};

/// For an interval that must not pass during a test.
pub const NEVER: Duration = Duration::from_secs(3600);

/// The default of DEDUP_WINDOW.
pub const DEDUP_WINDOW: Duration = Duration::from_hours(48);

/// 2026-11-22T12:00:00Z
pub const NOON: i64 = 1_795_348_800_000;

/// What `setup` records in `fold`.
pub const RECORD_FOLD: &str = "INSERT INTO fold VALUES (2, true, 'history', '48h')";

/// Conflicts with a batch, which then waits for its offset rows.
pub const LOCK_OFFSETS: &str = "LOCK TABLE kafka_offset IN EXCLUSIVE MODE";

/// The traffic of a drill: some products again and again, some that their user leaves for good.
pub fn passing_crowd(users: usize, apis: &[TestClient]) -> Clicking {
    Crowd { products: 5, passing: true, pause: Duration::from_millis(10), ..Crowd::new(1, users, 0) }.start(apis)
}

/// An output that takes no byte: a writer blocks as long as the second value exists.
pub fn full_socket() -> (OwnedFd, UnixStream) {
    let (mut full, unread) = UnixStream::pair().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.write(&[b'x'; 1024]).is_ok() {}
    full.set_nonblocking(false).unwrap();
    (full.into(), unread)
}

/// A system with 20,000 folded likes, and settings with which a replay of them takes a while.
pub async fn long_log() -> (TestSystem, TestService, Vec<(String, String)>) {
    let (topic, system) = TestSystem::with_topic(1).await;
    for n in 0..20_000 {
        topic.publish_event(&event("p", Some(&format!("u{n}")), true));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(20_000).await;
    let mut settings = system.settings();
    settings.push(("BATCH_MAX_EVENTS".to_owned(), "100".to_owned()));
    (system, aggregator, settings)
}

/// An aggregator inside the test's process; it runs until it is dropped.
pub struct Counting {
    port: AdminPort,
    stop: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Counting {
    /// Starts `run` with the system's settings; it may not be ready yet.
    pub fn start(system: &TestSystem, timing: Timing) -> Self {
        let addr = free_addr().to_string();
        let flags = [
            ["--kafka-bootstrap-servers", system.setting("KAFKA_BOOTSTRAP_SERVERS")],
            ["--kafka-group-id", system.setting("KAFKA_GROUP_ID")],
            ["--kafka-topic", &system.topic],
            ["--database-url", system.setting("DATABASE_URL")],
            ["--admin-addr", &addr],
        ];
        let settings = system.settings();
        let file = settings.iter().filter(|(name, _)| name == "KAFKA_CONFIG_FILE");
        let file = file.flat_map(|(_, path)| ["--kafka-config-file", path]);
        let flags = flags.into_iter().flatten().chain(file);
        let settings = Cli::parse_from(["like-aggregator", "run"].into_iter().chain(flags));
        let CliCommand::Run(settings) = settings.command else { unreachable!("the command is run") };
        let stop = CancellationToken::new();
        let task = tokio::spawn(like_aggregator::run::run(settings, timing, stop.clone()));
        Self { port: AdminPort::new(format!("http://{addr}")), stop, task: Some(task) }
    }

    /// Starts `run` and waits until it is ready.
    pub async fn ready(system: &TestSystem, timing: Timing) -> Self {
        let counting = Self::start(system, timing);
        until("ready", async || counting.is_ready().await).await;
        counting
    }

    /// Stops it; returns the result of `run`.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.take().expect("not stopped yet").await.expect("no panic")
    }

    /// Waits until it ends by itself; returns the reason.
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

/// A thread that publishes until it is stopped.
pub struct Publishing {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<TestTopic>,
}

impl Publishing {
    /// Calls `publish` with 0, 1, 2, …
    pub fn start(topic: TestTopic, publish: impl Fn(&TestTopic, usize) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                publish(&topic, number);
                number += 1;
            }
            topic.flush();
            topic
        });
        Self { stop, thread }
    }

    /// Stops and waits until all records are in the log.
    pub async fn stop(self) -> TestTopic {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap()
    }
}

/// A topic, and a system set up for it.
pub async fn set_up(partitions: i32) -> (TestTopic, TestSystem) {
    TestSystem::with_topic(partitions).await
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

/// Sets KAFKA_CONFIG_FILE to a file with these properties.
pub fn kafka_properties(system: &mut TestSystem, properties: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), properties).unwrap();
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().unwrap());
    file
}

/// What a worker applies its batches with.
pub fn store(database: &TestDatabase, topic: &str, dedup: Dedup) -> Store {
    Store::new(&DatabaseUrl::from_str(&database.url).unwrap(), SCHEMA, topic, dedup)
}

/// How a table was read so far, the sessions of this application included, which have ended: sequential scans, rows read by
/// them, index scans.
pub async fn table_reads(system: &TestSystem, application: &str, table: &str) -> (i64, i64, i64) {
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}'");
    system.number_becomes(&format!("{sessions} AND datname = current_database()"), 0).await;
    let sql =
        "SELECT seq_scan, seq_tup_read, idx_scan FROM pg_stat_user_tables WHERE schemaname = 'likes' AND relname = ";
    system.database.rows(&format!("{sql}'{table}'")).await[0]
}

/// The partitions that an aggregator owns, in order.
pub async fn owned(aggregator: &TestService) -> Vec<i32> {
    let mut owned = Vec::new();
    for partition in 0..8 {
        let label = format!("partition=\"{partition}\"");
        if !aggregator.series("likes_consumer_lag_records", &label).await.is_empty() {
            owned.push(partition);
        }
    }
    owned
}

/// Waits until an aggregator owns so many partitions; returns them.
pub async fn owns(aggregator: &TestService, number: i32) -> Vec<i32> {
    until(&format!("it owns {number} partitions"), async || owned(aggregator).await.len() == number as usize).await;
    owned(aggregator).await
}

/// Whether a line of a table has exactly these cells.
pub fn has_row(table: &str, cells: &[&str]) -> bool {
    table.lines().any(|line| line.split_whitespace().eq(cells.iter().copied()))
}

/// Reads the counts of products again and again; none may go backwards. Returns the number of reads
/// and the last counts.
pub async fn watch(client: TestClient, products: Vec<String>, enough: Arc<AtomicBool>) -> (usize, Vec<i64>) {
    let (mut seen, mut reads) = (BTreeMap::new(), 0);
    while !enough.load(Ordering::Relaxed) {
        for (product, (count, _)) in products.iter().zip(client.likes("watcher", &products).await) {
            let before = seen.insert(product, count).unwrap_or(0);
            assert!(count >= before, "{product} had {before} likes and has {count}");
        }
        reads += 1;
    }
    (reads, seen.into_values().collect())
}
