//! Three Kafka brokers of one test, each a controller too, that are killed, stopped, frozen and restarted one by one.
//! Their timeouts are Kafka's defaults: the others notice a dead broker after nine seconds.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use like_events::topic::TOPIC_SETTINGS;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tempfile::TempDir;

use crate::broker::java_with_heap;
use crate::process::{TestProcess, free_addr, run_to_end};
use crate::{eventually_within, until};

const HEAP: &str = "384m";
/// For a broker to start, or to catch up with the others, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A cluster of three; removed with the value. Nodes are numbered from 1.
pub struct TestCluster {
    nodes: Vec<Node>,
    /// For metadata.
    client: BaseConsumer,
    folder: TempDir,
}

struct Node {
    addr: SocketAddr,
    /// None while it is down.
    process: Option<TestProcess>,
}

impl TestCluster {
    /// Starts three brokers with new storage and waits until they are ready.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let nodes: Vec<_> = (0..3).map(|_| Node { addr: free_addr(), process: None }).collect();
        let controllers: Vec<_> = nodes.iter().map(|_| free_addr()).collect();
        let voters: Vec<_> = (1..).zip(&controllers).map(|(id, addr)| format!("{id}@{addr}")).collect();
        let servers = nodes.iter().map(|node| node.addr.to_string()).collect::<Vec<_>>().join(",");
        let mut config = ClientConfig::new();
        // A frozen broker must not keep the requests of later calls.
        config.set("bootstrap.servers", servers).set("socket.timeout.ms", "2000");
        let client = config.create().expect("a client");
        let mut cluster = Self { nodes, client, folder };
        for (id, controller) in (1..).zip(&controllers) {
            let properties = format!(
                "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{addr},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{addr}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
",
                addr = cluster.node(id).addr,
                voters = voters.join(","),
                data = cluster.data(id).display(),
            );
            fs::create_dir(cluster.data(id)).expect("a folder");
            fs::write(cluster.config(id), properties).expect("server.properties");
        }
        tokio::join!(cluster.format(1), cluster.format(2), cluster.format(3));
        // One alone is not ready: it needs the vote of another.
        (1..=3).for_each(|id| cluster.launch(id));
        for id in 1..=3 {
            cluster.started(id).await;
        }
        cluster
    }

    /// host:port of each broker.
    pub fn servers(&self) -> String {
        self.nodes.iter().map(|node| node.addr.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Replaces a topic's settings by those of `setup` with these changes.
    pub async fn configure(&self, topic: &str, changes: &[(&str, &str)]) {
        let mut config = ClientConfig::new();
        let admin: AdminClient<DefaultClientContext> =
            config.set("bootstrap.servers", self.servers()).create().expect("a client");
        let settings = TOPIC_SETTINGS.iter().chain(changes);
        let altered = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let altered = settings.fold(altered, |altered, (name, value)| altered.set(name, value));
        let results = admin.alter_configs([&altered], &AdminOptions::new()).await.expect("settings");
        results.into_iter().for_each(|result| drop(result.expect("settings")));
    }

    /// Sends SIGKILL.
    pub async fn kill(&mut self, id: i32) {
        let mut process = self.node_mut(id).process.take().expect("it runs");
        process.kill();
        process.ended().await;
    }

    /// Sends SIGTERM, on which a broker hands its partitions over, and waits for its end.
    pub async fn stop(&mut self, id: i32) -> ExitStatus {
        let mut process = self.node_mut(id).process.take().expect("it runs");
        process.terminate();
        process.ended().await
    }

    /// Sends SIGSTOP.
    pub fn freeze(&self, id: i32) {
        self.process(id).freeze();
    }

    /// Sends SIGCONT.
    pub fn thaw(&self, id: i32) {
        self.process(id).thaw();
    }

    /// Starts a broker that is down, with its data. It may not be ready yet.
    pub fn launch(&mut self, id: i32) {
        let mut command = java_with_heap(HEAP, self.folder.path(), "kafka.Kafka");
        command.arg(self.config(id));
        self.node_mut(id).process = Some(TestProcess::start(&format!("Kafka {id}"), command));
    }

    /// Waits until a broker says that it has started.
    pub async fn started(&self, id: i32) {
        let what = format!("broker {id} has started");
        let log = || self.process(id).log();
        eventually_within(LIMIT, &what, async || log().contains("Kafka Server started").then_some(())).await;
    }

    /// Waits until every replica of the topic is in sync.
    pub async fn in_sync(&self, topic: &str) {
        let in_sync = async || {
            let partitions = self.partitions(topic)?;
            partitions.iter().all(|(leader, in_sync)| *leader > 0 && *in_sync == self.nodes.len()).then_some(())
        };
        eventually_within(LIMIT, "all replicas are in sync", in_sync).await;
    }

    /// The leader of a partition; None while there is none or no broker answers.
    pub fn leader(&self, topic: &str, partition: usize) -> Option<i32> {
        self.partitions(topic)?.get(partition).map(|(leader, _)| *leader).filter(|leader| *leader > 0)
    }

    /// Waits until a partition has another leader than `old`.
    pub async fn moves_leader(&self, topic: &str, partition: usize, old: i32) {
        until("the partition has another leader", async || {
            self.leader(topic, partition).is_some_and(|leader| leader != old)
        })
        .await;
    }

    /// The active controller, as its own node has recorded it. In KRaft, brokers name any of them to clients.
    pub async fn controller(&self) -> i32 {
        let elected = |id: i32| {
            let state = fs::read(self.data(id).join("__cluster_metadata-0/quorum-state")).ok()?;
            let state: Value = serde_json::from_slice(&state).ok()?;
            Some((state["leaderEpoch"].as_i64()?, state["leaderId"].as_i64()? as i32))
        };
        eventually_within(LIMIT, "a controller is elected", async || {
            let newest = (1..=3).filter(|id| self.node(*id).process.is_some()).filter_map(elected).max();
            newest.map(|(_, id)| id).filter(|id| *id > 0 && self.node(*id).process.is_some())
        })
        .await
    }

    /// Leader and number of in-sync replicas of each partition.
    fn partitions(&self, topic: &str) -> Option<Vec<(i32, usize)>> {
        let metadata = self.client.fetch_metadata(Some(topic), Duration::from_secs(2)).ok()?;
        let mut partitions: Vec<_> = metadata.topics().first()?.partitions().iter().collect();
        partitions.sort_by_key(|partition| partition.id());
        Some(partitions.iter().map(|partition| (partition.leader(), partition.isr().len())).collect())
    }

    async fn format(&self, id: i32) {
        let mut format = java_with_heap("128m", self.folder.path(), "kafka.tools.StorageTool");
        format.args(["format", "--cluster-id", "dGVzdC1jbHVzdGVyLW9uZQ", "--config"]).arg(self.config(id));
        let output = run_to_end(format, LIMIT).await;
        assert!(output.status.success(), "{output:?}");
    }

    fn node(&self, id: i32) -> &Node {
        &self.nodes[id as usize - 1]
    }

    fn node_mut(&mut self, id: i32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    fn process(&self, id: i32) -> &TestProcess {
        self.node(id).process.as_ref().expect("it runs")
    }

    fn config(&self, id: i32) -> PathBuf {
        self.folder.path().join(format!("server-{id}.properties"))
    }

    fn data(&self, id: i32) -> PathBuf {
        self.folder.path().join(format!("data-{id}"))
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // Their data isn't worth an orderly shutdown.
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            if process.status().is_none() {
                process.kill();
            }
        }
    }
}
