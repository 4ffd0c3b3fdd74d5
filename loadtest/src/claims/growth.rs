//! Shows what growing a topic does: the partitioner sends part of the keys elsewhere (half of them
//! when the number doubles), so a product's events stand in two partitions without an order. And
//! what the services do then: like-api takes no like, like-aggregator doesn't run.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;

use super::Finding;
use super::lab::{Lab, PATIENCE, Topic};
use super::records::{Entry, entry, event};
use crate::aggregator::request;

const BEFORE: i32 = 4;
const AFTER: i32 = 8;
const PRODUCTS: u32 = 1_000;
/// What both services say of a topic that has grown.
const REASON: &str = "has 8 partitions and its layout says 4";

pub async fn growing_remaps_keys(lab: &Lab) -> anyhow::Result<Finding> {
    let topic = Topic { name: Lab::name(), partitions: BEFORE };
    let database = lab.set_up(&topic).await?;
    let mut rng = lab.rng();
    let likes: Vec<_> = (0..PRODUCTS).map(|product| entry(&event(&mut rng, product, Some(0), true))).collect();
    lab.publish(&topic, &[], &likes)?;
    let before = partitions_by_key(lab.read_all(&topic)?);

    let taken = Service::start(lab, &topic, &database.url, "like-api", "before")?.like_once_ready()?;
    let topic = grow(lab, topic).await?;
    let from = lab.read_all(&topic)?.len();
    lab.publish(&topic, &[], &likes)?;
    let after = lab.read_all(&topic)?.len();
    ensure!(after - from == likes.len(), "{} of {PRODUCTS} likes were published again", after - from);
    // The last partition that a key was seen in, by time, is the new one.
    let mut records = lab.read_all(&topic)?;
    records.sort_by_key(|record| record.time);
    let moved = records[from..].iter().filter(|record| before[&record.key] != record.partition).count();
    let share = moved as f64 / f64::from(PRODUCTS);

    let refused = Service::start(lab, &topic, &database.url, "like-api", "after")?.like_once_closed()?;
    let ended = Service::start(lab, &topic, &database.url, "like-aggregator", "after")?.ends()?;
    let measured = format!(
        "{BEFORE} to {AFTER} partitions: {:.0} % of {PRODUCTS} keys go elsewhere; like-api answers {taken} before, \
         {refused} after; like-aggregator ends with status {ended}, both name the reason",
        share * 100.0
    );
    Ok(Finding { measured, holds: (0.4..0.6).contains(&share) && taken == 202 && refused == 503 && ended != 0 })
}

fn partitions_by_key(records: Vec<Entry>) -> HashMap<Option<Vec<u8>>, Option<i32>> {
    records.into_iter().map(|record| (record.key, record.partition)).collect()
}

/// Gives the topic more partitions, and waits until a new client is told of them.
async fn grow(lab: &Lab, topic: Topic) -> anyhow::Result<Topic> {
    let admin: AdminClient<DefaultClientContext> = lab.client(&[]).create()?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    for grown in admin.create_partitions(&[NewPartitions::new(&topic.name, AFTER as usize)], &options).await? {
        grown.map_err(|(topic, code)| anyhow!("topic {topic} can't be grown: {code}"))?;
    }
    let start = Instant::now();
    loop {
        let metadata = admin.inner().fetch_metadata(Some(&topic.name), PATIENCE)?;
        let partitions = metadata.topics().first().context("the topic is gone")?.partitions();
        if partitions.len() == AFTER as usize && partitions.iter().all(|partition| partition.leader() >= 0) {
            return Ok(Topic { partitions: AFTER, ..topic });
        }
        ensure!(start.elapsed() < PATIENCE, "the new partitions have no leader after {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// One of the two services, its log beside those of other measurements. Dropped, it is killed.
struct Service {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
    log: std::path::PathBuf,
}

impl Service {
    fn start(lab: &Lab, topic: &Topic, url: &str, name: &str, when: &str) -> anyhow::Result<Self> {
        // Free a moment ago; if somebody was faster, the process says so and ends.
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (public, admin) = (free()?, free()?);
        let path = lab.logs.join(format!("claims-{name}-{when}.log"));
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let child = Command::new(lab.programs.join(name))
            .args((name == "like-aggregator").then_some("run"))
            .envs(lab.service_env(topic, url))
            .env("LISTEN_ADDR", public.to_string())
            .env("ADMIN_ADDR", admin.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| name.to_owned())?;
        Ok(Self { child, public, admin, log: path })
    }

    /// The status that a like is answered with once the service is ready.
    fn like_once_ready(self) -> anyhow::Result<u16> {
        self.like_once("it is ready", |status, _| status == 200)
    }

    /// The same once it isn't because of how the topic looks.
    fn like_once_closed(self) -> anyhow::Result<u16> {
        self.like_once("it knows of the new partitions", |status, body| status == 503 && body.contains(REASON))
    }

    fn like_once(mut self, what: &str, reached: impl Fn(u16, &str) -> bool) -> anyhow::Result<u16> {
        let start = Instant::now();
        loop {
            if request(self.admin, "GET /readyz", "").is_ok_and(|(status, body)| reached(status, &body)) {
                break;
            }
            let log = self.log.display();
            ensure!(self.child.try_wait()?.is_none(), "like-api has ended: {log}");
            ensure!(start.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}: {log}");
            sleep(Duration::from_millis(20));
        }
        Ok(request(self.public, "PUT /v1/products/sku/like", "X-User-Id: u\r\n")?.0)
    }

    /// Its exit status, once it has ended by itself, having said why.
    fn ends(mut self) -> anyhow::Result<i32> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(start.elapsed() < PATIENCE, "still running after {PATIENCE:?}: {}", self.log.display());
            sleep(Duration::from_millis(20));
        };
        ensure!(std::fs::read_to_string(&self.log)?.contains(REASON), "it didn't say why: {}", self.log.display());
        status.code().context("it was killed")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
