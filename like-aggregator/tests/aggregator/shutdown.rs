//! How both services end: the first signal finishes accepted work within ten seconds, whatever is gone,
//! frozen or locked; the second one ends the process at once.

use std::time::{Duration, Instant};

use crate::common::{full_socket, kafka_properties, publish, set_up, users};
use like_testkit::process::{TestProcess, command, free_addr};
use like_testkit::{AdminPort, Scram, TestBroker, TestProxy, TestService, TestSystem, TestTopic, until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Postgres, Transaction};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(10);
const SCRAM: Scram = Scram { user: "likes", password: "right-7f3a" };
const LOCK_LIKES: &str = "LOCK TABLE product_like IN ACCESS EXCLUSIVE MODE";

async fn ends_in_order(service: &mut TestService) {
    let (status, took) = service.stop().await;
    assert!(status.success() && took < LIMIT, "{status} after {took:?}");
}

/// Sends two different signals, since two equal ones may arrive as one. Only the second signal leads to
/// this status.
async fn ends_at_once(process: &mut TestProcess) {
    process.terminate();
    process.interrupt();
    assert_eq!(process.ended().await.code(), Some(130));
}

/// A proxy to the database for processes that start later.
async fn through_a_proxy(system: &mut TestSystem) -> TestProxy {
    let server = system.database.url.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let proxy = TestProxy::start(&server).await;
    let through = system.database.url.replace(&server, &proxy.addr.to_string());
    system.set("DATABASE_URL", &through);
    proxy
}

/// An aggregator whose batch waits for a lock.
async fn in_mid_batch(system: &TestSystem, topic: &TestTopic) -> (TestService, Transaction<'static, Postgres>) {
    let aggregator = system.aggregator(&[]).await;
    let lock = system.database.lock(LOCK_LIKES).await;
    publish(topic, 0, users("u", 5));
    system.database.waiting_for_lock("like-aggregator", 1).await;
    (aggregator, lock)
}

/// The number of members of the system's group, according to the broker.
fn members(system: &TestSystem) -> usize {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", like_testkit::kafka()).create().unwrap();
    let groups = client.fetch_group_list(Some(system.setting("KAFKA_GROUP_ID")), Duration::from_secs(30)).unwrap();
    groups.groups().iter().map(|group| group.members().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregator_ends_in_mid_batch() {
    let (topic, mut system) = set_up(1).await;
    let direct = system.settings();
    // A member that doesn't leave the group stays in it for longer than the test lasts.
    let _file = kafka_properties(
        &mut system,
        "session.timeout.ms=300000
",
    );
    let proxy = through_a_proxy(&mut system).await;
    for frozen in [false, true] {
        let (mut aggregator, lock) = in_mid_batch(&system, &topic).await;
        assert_eq!(members(&system), 1);
        if frozen {
            proxy.freeze();
        }
        let port = AdminPort::new(aggregator.admin.clone());
        tokio::join!(ends_in_order(&mut aggregator), port.waits_for("topic", "counting has stopped"));
        until("it has left the group", async || members(&system) == 0).await;
        drop(lock);
        proxy.restore();
    }
    system.set_all(direct);
    let _next = system.aggregator(&[]).await;
    system.folded(10).await;
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregator_ends_with_silent_database() {
    let mut system = TestSystem::new().await;
    let proxy = through_a_proxy(&mut system).await;
    proxy.freeze();
    let mut aggregator = system.start_aggregator(&[]);
    until("it connects again", async || proxy.connections() > 2).await;
    ends_in_order(&mut aggregator).await;
}

/// A frozen broker and a frozen database accept bytes and never answer.
#[tokio::test(flavor = "multi_thread")]
async fn both_end_with_frozen_servers() {
    let broker = TestBroker::start(SCRAM).await;
    let mut system = TestSystem::new().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &broker.addr);
    system.set("KAFKA_CONFIG_FILE", broker.client_properties(SCRAM).to_str().unwrap());
    system.setup(&["--partitions", "1"]).await;
    let mut patient = [system.api(&[]).await, system.aggregator(&[("KAFKA_GROUP_ID", "a")]).await];
    let proxy = through_a_proxy(&mut system).await;
    let mut cut_off = [system.api(&[]).await, system.aggregator(&[("KAFKA_GROUP_ID", "b")]).await];
    let mut at_once = [system.api(&[]).await, system.aggregator(&[("KAFKA_GROUP_ID", "c")]).await];

    let _lock = system.database.lock(LOCK_LIKES).await;
    patient[0].client().click("u1", "p1", true, "click").await;
    // Each is in a group of its own, so all three apply the same batch.
    system.database.waiting_for_lock("like-aggregator", 3).await;
    broker.process.freeze();
    proxy.freeze();
    let _unanswered = ask_for_likes(&at_once[0]).await;
    for service in &mut at_once {
        ends_at_once(&mut service.process).await;
    }
    let pending = [ask_for_likes(&patient[0]).await, ask_for_likes(&cut_off[0]).await];
    let [api, aggregator] = &mut patient;
    let [other_api, other_aggregator] = &mut cut_off;
    tokio::join!(
        ends_in_order(api),
        ends_in_order(aggregator),
        ends_in_order(other_api),
        ends_in_order(other_aggregator)
    );
    for answers in pending {
        for answer in answers.join_all().await {
            let answer = answer.expect("an answer before the end");
            assert!([503, 504].contains(&answer.status().as_u16()), "{answer:?}");
        }
    }
}

/// Sends three likes and waits until like-api has published them or given up.
async fn ask_for_likes(api: &TestService) -> JoinSet<reqwest::Result<reqwest::Response>> {
    let taken = async || {
        api.metric("likes_producer_queued_events", "").await
            + api.metric("messaging_client_sent_messages_total", "").await
    };
    let (before, mut asked) = (taken().await, JoinSet::new());
    for n in 0..3 {
        let request = api.http.put(format!("{}/v1/products/p{n}/like", api.url)).header("X-User-Id", "u1");
        asked.spawn(request.send());
    }
    until("three likes are published", async || taken().await > before + 2.5).await;
    asked
}

/// Their logs are blocked, and neither can end in order soon: one has a batch in flight, the other keeps serving.
#[tokio::test(flavor = "multi_thread")]
async fn second_signal_ends_with_blocked_logs() {
    let (topic, mut system) = set_up(1).await;
    let _lock = system.database.lock(LOCK_LIKES).await;
    publish(&topic, 0, users("u", 5));
    system.set("SHUTDOWN_DELAY", "1m");
    let (full, _unread) = full_socket();
    let mut start = |name: &str, args: &[&str]| {
        system.set("ADMIN_ADDR", &free_addr().to_string());
        system.set("LISTEN_ADDR", &free_addr().to_string());
        TestProcess::start_saying_to(&full, name, command(name, args, &system.settings()))
    };
    let mut aggregator = start("like-aggregator", &["run"]);
    let mut api = start("like-api", &[]);
    system.database.waiting_for_lock("like-aggregator", 1).await;
    ends_at_once(&mut aggregator).await;
    until("it listens for both signals", async || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", api.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        [2, 15].iter().all(|signal| caught >> (signal - 1) & 1 == 1)
    })
    .await;
    ends_at_once(&mut api).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_replay_ends_in_time() {
    let (topic, mut system) = set_up(1).await;
    publish(&topic, 0, users("u", 5));
    let mut aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    ends_in_order(&mut aggregator).await;
    let proxy = through_a_proxy(&mut system).await;
    for args in [&["rebuild", "--yes"][..], &["audit", "--log"]] {
        let start = || TestProcess::start(args[0], command("like-aggregator", args, &system.settings()));
        let stops = async |mut process: TestProcess| {
            let start = Instant::now();
            process.terminate();
            assert_eq!(process.ended().await.code(), Some(2));
            assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
            assert!(process.log().contains("error: stopped"), "{}", process.log());
        };
        let lock = system.database.lock("LOCK TABLE kafka_offset IN ACCESS EXCLUSIVE MODE").await;
        let mut twice = start();
        system.database.waiting_for_lock("like-aggregator-replay", 1).await;
        ends_at_once(&mut twice).await;
        system.database.waiting_for_lock("like-aggregator-replay", 0).await;

        for frozen in [false, true] {
            let one = start();
            system.database.waiting_for_lock("like-aggregator-replay", 1).await;
            if frozen {
                proxy.freeze();
            }
            stops(one).await;
            // The server has ended its session, too.
            system.database.waiting_for_lock("like-aggregator-replay", 0).await;
        }

        let before = proxy.connections();
        let one = start();
        until("it connects", async || proxy.connections() > before).await;
        stops(one).await;
        proxy.restore();
        drop(lock);
    }
}
