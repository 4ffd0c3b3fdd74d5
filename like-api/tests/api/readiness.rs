//! When likes are taken and when not, and what the service says about it.

use std::time::{Duration, Instant};

use like_testkit::{TestDatabase, TestProxy, TestTopic, eventually};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use reqwest::StatusCode;

use crate::common::{Answer, Api, config};

/// Asserts a 503 that says when to come back.
#[track_caller]
fn assert_unavailable(answer: &Answer, name: &str, why: &str) {
    answer.assert_problem(503, name);
    assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{answer:?}");
    assert!(answer.json["detail"].as_str().unwrap().contains(why), "{answer:?}");
}

#[tokio::test]
async fn likes_need_the_layout() {
    let (topic, database) = (TestTopic::create(2).await, TestDatabase::create().await);
    let api = Api::start(config(&topic.name, &database.url)).await;
    let (status, body) = eventually("the missing layout is named", async || {
        let (status, body) = api.readiness().await;
        let named = body["waitingFor"]["topic_layout"].as_str().is_some_and(|why| why.contains("setup"));
        named.then_some((status, body))
    })
    .await;
    assert_eq!((status, body["ok"].as_bool()), (StatusCode::SERVICE_UNAVAILABLE, Some(false)));
    assert_unavailable(&api.like("p1", "u1").await, "writes-unavailable", "setup");

    database.lay_out(&topic.name, 2).await;
    api.wait_until_ready().await;
    assert_eq!(api.like("p1", "u1").await.status, 202);
}

#[tokio::test]
async fn missing_setup_is_named() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create_empty().await);
    let api = Api::start(config(&topic.name, &database.url)).await;
    eventually("setup is named", async || {
        let why = api.readiness().await.1["waitingFor"]["topic_layout"].as_str().unwrap().to_owned();
        why.contains("setup").then_some(())
    })
    .await;
    assert_unavailable(&api.get("/v1/likes?ids=p1").await, "reads-unavailable", "database");
}

#[tokio::test]
async fn without_kafka_service_is_not_ready() {
    let database = TestDatabase::create().await;
    database.lay_out("t", 1).await;
    let mut config = config("t", &database.url);
    config.kafka.kafka_bootstrap_servers = "127.0.0.1:1".to_owned();
    let api = Api::start(config).await;
    eventually("only Kafka is waited for", async || {
        let waiting = api.readiness().await.1["waitingFor"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        (waiting == ["producer", "topic"]).then_some(())
    })
    .await;
    assert_unavailable(&api.like("p1", "u1").await, "writes-unavailable", "");
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);
    assert_eq!(api.http.get(format!("{}/livez", api.admin)).send().await.unwrap().status(), 200);
}

/// A line to the test's PostgreSQL that can be cut, and the URL that takes it.
pub async fn through_a_proxy(database: &TestDatabase) -> (TestProxy, String) {
    let server = database.url.rsplit_once('@').unwrap().1.split('/').next().unwrap();
    let proxy = TestProxy::start(server).await;
    let through = database.url.replace(server, &proxy.addr.to_string());
    (proxy, through)
}

/// At least so many of them.
async fn reads_wait_for_a_table(database: &TestDatabase, least: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'like-api'
                   AND datname = current_database() AND wait_event_type = 'Lock'";
    eventually("reads wait for the table", async || {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&database.pool).await.unwrap();
        (count >= least).then_some(())
    })
    .await;
}

#[tokio::test]
async fn likes_outlast_a_postgresql_outage() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    let (proxy, through) = through_a_proxy(&database).await;
    let api = Api::start(config(&topic.name, &through)).await;
    api.wait_until_ready().await;
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);

    proxy.cut();
    // Nobody reads but the watch on the layout: it has found the database gone more than once.
    let before = proxy.connections();
    eventually("the watch has tried", async || (proxy.connections() >= before + 3).then_some(())).await;
    assert_eq!(api.readiness().await.0, StatusCode::OK);
    let acknowledged = api.like("p1", "u1").await;
    assert_eq!(acknowledged.status, 202);
    // Others than before, which may still be known.
    for path in ["/v1/likes?ids=p2", "/v1/products/p2/likes", acknowledged.header("location")] {
        assert_unavailable(&api.get(path).await, "reads-unavailable", "database");
    }

    proxy.restore();
    eventually("reads are back", async || (api.get("/v1/likes?ids=p1").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn read_without_answer_times_out() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    let (proxy, through) = through_a_proxy(&database).await;
    let api = Api::start(config(&topic.name, &through)).await;
    api.wait_until_ready().await;
    let told = async || {
        let asked = Instant::now();
        assert_unavailable(&api.get("/v1/likes?ids=p1").await, "reads-unavailable", "database");
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    };
    // Somebody holds the table, and there are more readers than connections.
    let mut holder = database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
    futures::future::join_all((0..9).map(|_| told())).await;
    told().await;

    // The network swallows the answer to what was asked, and everything after it.
    let swallow = async {
        reads_wait_for_a_table(&database, 1).await;
        proxy.freeze();
    };
    tokio::join!(told(), swallow);
    told().await;
    assert_eq!(api.like("p1", "u1").await.status, 202);
    assert_eq!(api.readiness().await.0, StatusCode::OK);
}

#[tokio::test]
async fn reads_survive_a_silent_failover() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    let (proxy, through) = through_a_proxy(&database).await;
    let api = Api::start(config(&topic.name, &through)).await;
    api.wait_until_ready().await;
    // As many queries as counts may have at a time, twice: that is the whole pool.
    for round in 0..2 {
        let mut holder = database.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE product_like_count").execute(&mut *holder).await.unwrap();
        let reads = (0..4).map(async |number| {
            reads_wait_for_a_table(&database, number).await;
            let path = format!("/v1/likes?ids=p{round}-{number}");
            assert_unavailable(&api.get(&path).await, "reads-unavailable", "database");
        });
        let moves = async {
            reads_wait_for_a_table(&database, 4).await;
            proxy.move_server();
        };
        tokio::join!(futures::future::join_all(reads), moves);
        holder.rollback().await.unwrap();
    }
    eventually("reads are back", async || (api.get("/v1/likes?ids=p1").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn topic_monitor_survives_a_lost_answer() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    let (proxy, through) = through_a_proxy(&database).await;
    let api = Api::start(config(&topic.name, &through)).await;
    api.wait_until_ready().await;
    let mut holder = database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE topic_layout").execute(&mut *holder).await.unwrap();
    reads_wait_for_a_table(&database, 1).await;
    proxy.freeze();
    let before = proxy.connections();
    eventually("the watch asks again", async || (proxy.connections() > before + 1).then_some(())).await;
}

#[tokio::test]
async fn grown_topic_refuses_likes() {
    let (topic, database) = (TestTopic::create(2).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 2).await;
    let api = Api::ready(&topic, &database).await;
    assert_eq!(api.like("p1", "u1").await.status, 202);

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", like_testkit::kafka()).create().unwrap();
    admin.create_partitions([&NewPartitions::new(&topic.name, 3)], &AdminOptions::new()).await.unwrap();
    eventually("not ready", async || (api.readiness().await.0 != StatusCode::OK).then_some(())).await;
    assert_unavailable(&api.like("p1", "u1").await, "writes-unavailable", "3 partitions");
    assert_eq!(api.get("/v1/likes?ids=p1").await.status, 200);
}

#[tokio::test]
async fn topics_open_in_sequence() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    let execute = async |sql: &'static str| {
        sqlx::query(sql).bind(&topic.name).execute(&database.pool).await.unwrap();
    };
    execute("INSERT INTO topic_layout VALUES (1, 'earlier', 1, NULL), (2, $1, 1, NULL)").await;
    let api = Api::start(config(&topic.name, &database.url)).await;
    eventually("the open topic is named", async || {
        let why = api.readiness().await.1["waitingFor"]["topic_layout"].as_str().unwrap().to_owned();
        why.contains("topic earlier").then_some(())
    })
    .await;
    assert_unavailable(&api.like("p1", "u1").await, "writes-unavailable", "earlier");

    execute("UPDATE topic_layout SET end_offsets = '{9}' WHERE topic <> $1").await;
    api.wait_until_ready().await;
    assert_eq!(api.like("p1", "u1").await.json["receipt"], "2-0-0");

    execute("UPDATE topic_layout SET end_offsets = '{1}' WHERE topic = $1").await;
    eventually("not ready", async || (api.readiness().await.0 != StatusCode::OK).then_some(())).await;
    assert_unavailable(&api.like("p1", "u1").await, "writes-unavailable", "closed");
}
