//! When likes are accepted, and what the service reports while they are not.

use std::ops::Deref;
use std::time::{Duration, Instant};

use like_testkit::{TestDatabase, TestProxy, TestTopic, eventually, until};
use reqwest::StatusCode;
use serde_json::Value;

use crate::common::{Api, TestApp, config, laid_out};

#[tokio::test]
async fn likes_need_the_layout() {
    let (topic, database) = (TestTopic::create(2).await, TestDatabase::create().await);
    let api = Api::start(config(&topic.name, &database.url)).await;
    api.port.waits_for("topic_layout", "setup").await;
    let readiness = api.http.get(format!("{}/readyz", api.port.admin)).send().await.unwrap();
    assert_eq!(readiness.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(readiness.json::<Value>().await.unwrap()["ok"], false);
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "setup");

    database.lay_out(&topic.name, 2).await;
    api.wait_until_ready().await;
    assert_eq!(api.like("p1", "u1").await.status, 202);
}

#[tokio::test]
async fn missing_setup_is_named() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create_empty().await);
    let api = Api::start(config(&topic.name, &database.url)).await;
    api.port.waits_for("topic_layout", "setup").await;
    api.get("/v1/likes?ids=p1").await.assert_unavailable("reads-unavailable", "database");

    // Tables of the release before.
    let database = TestDatabase::create().await;
    database.lay_out(&topic.name, 1).await;
    database.execute("ALTER TABLE fold DROP COLUMN time_ordered_ids_from").await;
    let api = Api::start(config(&topic.name, &database.url)).await;
    api.port.waits_for("topic_layout", "the tables are old: run like-aggregator setup").await;
}

#[tokio::test]
async fn without_kafka_service_is_not_ready() {
    let database = TestDatabase::create().await;
    database.lay_out("t", 1).await;
    let mut config = config("t", &database.url);
    config.kafka.kafka_bootstrap_servers = "127.0.0.1:1".to_owned();
    let api = Api::start(config).await;
    until("only Kafka is missing", async || {
        let waiting = api.port.waiting_for().await.unwrap();
        waiting.as_object().unwrap().keys().eq(["producer", "topic"])
    })
    .await;
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "");
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);
    assert_eq!(api.http.get(format!("{}/livez", api.port.admin)).send().await.unwrap().status(), 200);
}

/// A service that reaches PostgreSQL through a proxy.
struct Proxied {
    app: TestApp,
    proxy: TestProxy,
}

impl Deref for Proxied {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

async fn proxied() -> Proxied {
    let (topic, database) = laid_out(1).await;
    let (proxy, through) = through_a_proxy(&database).await;
    let app = TestApp::on(topic, database, |config| config.database.database_url = through.parse().unwrap()).await;
    Proxied { app, proxy }
}

/// A proxy to the test's PostgreSQL, and the database's URL through it.
pub async fn through_a_proxy(database: &TestDatabase) -> (TestProxy, String) {
    let server = database.url.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    let proxy = TestProxy::start(server).await;
    let through = database.url.replace(server, &proxy.addr.to_string());
    (proxy, through)
}

/// Waits until at least so many queries wait for a lock.
async fn queries_wait_for_a_lock(database: &TestDatabase, least: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'like-api'
                   AND datname = current_database() AND wait_event_type = 'Lock'";
    let count = async || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&database.pool).await.unwrap();
    until("queries wait for a lock", async || count().await >= least).await;
}

#[tokio::test]
async fn likes_outlast_a_postgresql_outage() {
    let api = proxied().await;
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);

    api.proxy.cut();
    // Only the topic monitor queries now: it has found the database unreachable more than once.
    let before = api.proxy.connections();
    until("the monitor has tried", async || api.proxy.connections() >= before + 3).await;
    assert!(api.port.can_write().await);
    let acknowledged = api.like("p1", "u1").await;
    assert_eq!(acknowledged.status, 202);
    // Other products than before, which may be cached.
    for path in ["/v1/likes?ids=p2", "/v1/products/p2/likes", acknowledged.header("location")] {
        api.get(path).await.assert_unavailable("reads-unavailable", "database");
    }

    api.proxy.restore();
    until("reads succeed", async || api.get("/v1/likes?ids=p1").await.status == 200).await;
}

#[tokio::test]
async fn read_without_answer_times_out() {
    let api = proxied().await;
    let times_out = async || {
        let asked = Instant::now();
        api.get("/v1/likes?ids=p1").await.assert_unavailable("reads-unavailable", "database");
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    };
    // The table is locked, and there are more readers than connections.
    let mut holder = api.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
    futures::future::join_all((0..9).map(|_| times_out())).await;
    times_out().await;

    // The network drops the answer of a running query, and everything after it.
    let swallow = async {
        queries_wait_for_a_lock(&api.database, 1).await;
        api.proxy.freeze();
    };
    tokio::join!(times_out(), swallow);
    times_out().await;
    assert_eq!(api.like("p1", "u1").await.status, 202);
    assert!(api.port.can_write().await);
}

#[tokio::test]
async fn reads_survive_a_silent_failover() {
    let api = proxied().await;
    // Twice as many queries as counts may run at a time: the whole pool.
    for round in 0..2 {
        let mut holder = api.database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
        let reads = (0..4).map(async |number| {
            queries_wait_for_a_lock(&api.database, number).await;
            let path = format!("/v1/likes?ids=p{round}-{number}");
            api.get(&path).await.assert_unavailable("reads-unavailable", "database");
        });
        let moves = async {
            queries_wait_for_a_lock(&api.database, 4).await;
            api.proxy.move_server();
        };
        tokio::join!(futures::future::join_all(reads), moves);
        holder.rollback().await.unwrap();
    }
    until("reads succeed", async || api.get("/v1/likes?ids=p1").await.status == 200).await;
}

#[tokio::test]
async fn topic_monitor_survives_a_lost_answer() {
    let api = proxied().await;
    let mut holder = api.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE topic_layout").execute(&mut *holder).await.unwrap();
    queries_wait_for_a_lock(&api.database, 1).await;
    api.proxy.freeze();
    let before = api.proxy.connections();
    until("the monitor asks again", async || api.proxy.connections() > before + 1).await;
}

/// The minute's check is far away: metadata shows the change.
#[tokio::test]
async fn changed_topic_refuses_likes_at_once() {
    let api = TestApp::ready_with(2, |config| config.topic_check_interval = Duration::from_hours(1)).await;
    assert_eq!(api.like("p1", "u1").await.status, 202);

    api.topic.grow(3).await;
    until("writes are not possible", async || !api.port.can_write().await).await;
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "3 partitions");
    // Reads are served: a condition that all replicas share doesn't take them out of service.
    assert!(api.port.is_ready().await);
    assert_eq!(api.port.metric("likes_writes_possible", "").await, 0.0);
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);

    api.topic.delete().await;
    api.port.waits_for("topic", "does not exist").await;
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "does not exist");
}

#[tokio::test]
async fn deleted_topic_refuses_the_next_like() {
    let api = TestApp::ready_with(1, |config| config.topic_check_interval = Duration::from_hours(1)).await;
    assert_eq!(api.like("p1", "u1").await.status, 202);
    api.topic.delete().await;
    let refused = async || Some(api.like("p1", "u1").await).filter(|answer| answer.status != 202);
    eventually("the broker has deleted it", refused).await.assert_unavailable("writes-unavailable", "does not exist");
}

#[tokio::test]
async fn closing_topic_refuses_likes() {
    let api = TestApp::ready(1).await;
    api.topic.configure(&[("max.message.bytes", "100")]).await;
    // The database is not asked: a replica that can't reach it is fenced too.
    eventually("no like is accepted", async || Some(api.like("p1", "u1").await).filter(|a| a.status != 202)).await;
    api.port.waits_for("topic", "takes no record").await;
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "it is being closed");

    sqlx::query("UPDATE topic_layout SET closing = true").execute(&api.database.pool).await.unwrap();
    api.port.waits_for("topic_layout", "is closed").await;
}

#[tokio::test]
async fn topics_open_in_sequence() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    let execute = async |sql: &'static str| {
        sqlx::query(sql).bind(&topic.name).execute(&database.pool).await.unwrap();
    };
    execute("INSERT INTO topic_layout VALUES (1, 'earlier', 1, NULL), (2, $1, 1, NULL)").await;
    let api = Api::start(config(&topic.name, &database.url)).await;
    api.port.waits_for("topic_layout", "topic earlier").await;
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "earlier");

    execute("UPDATE topic_layout SET end_offsets = '{9}' WHERE topic <> $1").await;
    api.wait_until_ready().await;
    assert_eq!(api.like("p1", "u1").await.json["receipt"], "2-0-0");

    execute("UPDATE topic_layout SET end_offsets = '{1}' WHERE topic = $1").await;
    until("writes are not possible", async || !api.port.can_write().await).await;
    api.like("p1", "u1").await.assert_unavailable("writes-unavailable", "closed");
}
