//! How both services end: the first signal finishes what was accepted, within ten seconds whatever
//! is gone, frozen or locked; the second ends at once.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::{publish, set_up, users};
use like_testkit::process::{TestProcess, command, free_addr};
use like_testkit::{AdminPort, Scram, TestBroker, TestProxy, TestService, TestSystem, TestTopic, eventually};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Postgres, Transaction};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(10);
const SCRAM: Scram = Scram { user: "likes", password: "right-7f3a" };

/// Whoever doesn't leave stays a member for longer than any test lasts.
const LONG_SESSION: &str = "session.timeout.ms=300000\n";

async fn ends_in_order(service: &mut TestService) {
    let (status, took) = service.stop().await;
    assert!(status.success() && took < LIMIT, "{status} after {took:?}");
}

/// Two signals that can't become one. No process ends with this status for another reason.
async fn ends_at_once(process: &mut TestProcess) {
    process.terminate();
    process.interrupt();
    assert_eq!(process.ended().await.code(), Some(130));
}

/// Whatever is started from now on comes to the database by this line.
async fn through_a_proxy(system: &mut TestSystem) -> TestProxy {
    let server = system.database.url.rsplit_once('@').unwrap().1.split('/').next().unwrap().to_owned();
    let proxy = TestProxy::start(&server).await;
    let through = system.database.url.replace(&server, &proxy.addr.to_string());
    system.set("DATABASE_URL", &through);
    proxy
}

async fn lock(system: &TestSystem, table: &str) -> Transaction<'static, Postgres> {
    let mut lock = system.database.pool.begin().await.unwrap();
    let sql = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *lock).await.unwrap();
    lock
}

/// Waits until so many connections of `application` wait for a lock.
async fn wait_for_lock(system: &TestSystem, application: &str, number: i64) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
               AND application_name = $1 AND wait_event_type = 'Lock'";
    eventually(&format!("{number} of {application} wait for a lock"), async || {
        let waiting: i64 = sqlx::query_scalar(sql).bind(application).fetch_one(&system.database.pool).await.unwrap();
        (waiting == number).then_some(())
    })
    .await;
}

/// An aggregator that has a batch in hand and waits for the lock.
async fn in_mid_batch(system: &TestSystem, topic: &TestTopic) -> (TestService, Transaction<'static, Postgres>) {
    let aggregator = system.aggregator(&[]).await;
    let lock = lock(system, "product_like").await;
    publish(topic, 0, users("u", 5));
    wait_for_lock(system, "like-aggregator", 1).await;
    (aggregator, lock)
}

/// The members of the system's group, as the broker knows them.
fn members(system: &TestSystem) -> usize {
    let group = system.settings().into_iter().find(|(name, _)| name == "KAFKA_GROUP_ID").unwrap().1;
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", like_testkit::kafka()).create().unwrap();
    let groups = client.fetch_group_list(Some(&group), Duration::from_secs(30)).unwrap();
    groups.groups().iter().map(|group| group.members().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_in_mid_batch_gives_it_up_leaves_the_group_and_ends_in_order() {
    let (topic, mut system) = set_up(1).await;
    let direct = system.settings();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), LONG_SESSION).unwrap();
    system.set("KAFKA_CONFIG_FILE", file.path().to_str().unwrap());
    let proxy = through_a_proxy(&mut system).await;
    for frozen in [false, true] {
        let (mut aggregator, lock) = in_mid_batch(&system, &topic).await;
        assert_eq!(members(&system), 1);
        if frozen {
            proxy.freeze();
        }
        let port = AdminPort::new(aggregator.admin.clone());
        tokio::join!(ends_in_order(&mut aggregator), port.waits_for("topic", "counting has stopped"));
        eventually("it has left the group", async || (members(&system) == 0).then_some(())).await;
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
async fn an_aggregator_that_waits_for_a_database_that_says_nothing_ends_in_order() {
    let mut system = TestSystem::new().await;
    let proxy = through_a_proxy(&mut system).await;
    proxy.freeze();
    let mut aggregator = system.start_aggregator(&[]);
    // It hasn't put all its trust in the first connection.
    eventually("it tries again", async || (proxy.connections() > 2).then_some(())).await;
    ends_in_order(&mut aggregator).await;
}

/// A broker that takes whatever it is sent and says nothing any more, and a database likewise.
#[tokio::test(flavor = "multi_thread")]
async fn with_broker_and_database_frozen_the_first_signal_ends_both_in_order_and_the_second_at_once() {
    let broker = TestBroker::start(SCRAM).await;
    let mut system = TestSystem::new().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &broker.addr);
    system.set("KAFKA_CONFIG_FILE", broker.client_properties(SCRAM).to_str().unwrap());
    system.setup(&["--partitions", "1"]).await;
    let mut patient = [system.api(&[]).await, system.aggregator(&[("KAFKA_GROUP_ID", "a")]).await];
    let proxy = through_a_proxy(&mut system).await;
    let mut cut_off = [system.api(&[]).await, system.aggregator(&[("KAFKA_GROUP_ID", "b")]).await];
    let mut at_once = [system.api(&[]).await, system.aggregator(&[("KAFKA_GROUP_ID", "c")]).await];

    let _lock = lock(&system, "product_like").await;
    patient[0].client().click("u1", "p1", true, "click").await;
    // Each in a group of its own: all have the same batch in hand.
    wait_for_lock(&system, "like-aggregator", 3).await;
    broker.process.freeze();
    proxy.freeze();
    let _unheard = ask_for_likes(&at_once[0]).await;
    for service in &mut at_once {
        ends_at_once(&mut service.process).await;
    }
    let told = [ask_for_likes(&patient[0]).await, ask_for_likes(&cut_off[0]).await];
    let [api, aggregator] = &mut patient;
    let [other_api, other_aggregator] = &mut cut_off;
    tokio::join!(
        ends_in_order(api),
        ends_in_order(aggregator),
        ends_in_order(other_api),
        ends_in_order(other_aggregator)
    );
    for answers in told {
        for answer in answers.join_all().await {
            let answer = answer.expect("an answer before the end");
            assert!([503, 504].contains(&answer.status().as_u16()), "{answer:?}");
        }
    }
}

/// Three requests that this like-api has in hand, or had: a like is given up after some seconds.
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
    eventually("it has three likes in hand", async || (taken().await > before + 2.5).then_some(())).await;
    asked
}

/// Whoever reads what they say has stopped reading, so whatever they do waits for him.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_ends_both_at_once_also_when_nobody_takes_their_logs() {
    let mut system = TestSystem::new().await;
    for (name, args) in [("like-aggregator", &["run"][..]), ("like-api", &[])] {
        system.set("ADMIN_ADDR", &free_addr().to_string());
        system.set("LISTEN_ADDR", &free_addr().to_string());
        let (mut full, _unread) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        while full.write(&[b'x'; 1024]).is_ok() {}
        full.set_nonblocking(false).unwrap();
        let output = OwnedFd::from(full).into();
        let mut process = TestProcess::start_saying_to(output, name, command(name, args, &system.settings()));
        eventually("it listens for both signals", async || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
            [2, 15].iter().all(|signal| caught >> (signal - 1) & 1 == 1).then_some(())
        })
        .await;
        ends_at_once(&mut process).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_told_to_stop_ends_in_time_whatever_it_waits_for() {
    let (topic, mut system) = set_up(1).await;
    publish(&topic, 0, users("u", 5));
    let mut aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    ends_in_order(&mut aggregator).await;
    let proxy = through_a_proxy(&mut system).await;
    for args in [&["rebuild", "--yes"][..], &["audit", "--log"]] {
        let start = || TestProcess::start(args[0], command("like-aggregator", args, &system.settings()));
        let stops = async |mut process: TestProcess| {
            let told = Instant::now();
            process.terminate();
            assert_eq!(process.ended().await.code(), Some(2));
            assert!(told.elapsed() < LIMIT, "{:?}", told.elapsed());
            assert!(process.log().contains("error: stopped"), "{}", process.log());
        };
        let lock = lock(&system, "kafka_offset").await;
        let mut told_twice = start();
        wait_for_lock(&system, "like-aggregator-replay", 1).await;
        ends_at_once(&mut told_twice).await;
        wait_for_lock(&system, "like-aggregator-replay", 0).await;

        for frozen in [false, true] {
            let one = start();
            wait_for_lock(&system, "like-aggregator-replay", 1).await;
            if frozen {
                proxy.freeze();
            }
            stops(one).await;
            // And the server has noticed.
            wait_for_lock(&system, "like-aggregator-replay", 0).await;
        }

        let before = proxy.connections();
        let one = start();
        eventually("it connects", async || (proxy.connections() > before).then_some(())).await;
        stops(one).await;
        proxy.restore();
        drop(lock);
    }
}
