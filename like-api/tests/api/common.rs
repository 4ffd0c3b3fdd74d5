//! A like-api in this process, on free ports, and requests to it.

use std::ops::Deref;
use std::time::Duration;

use clap::Parser;
use like_api::config::Config;
use like_api::server::{Listeners, serve};
use like_testkit::{AdminPort, TestDatabase, TestTopic, until};
use prometheus::Registry;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::description;

/// Nothing listens there.
pub const NO_DATABASE: &str = "postgres://likes@127.0.0.1:1/none";

/// A running service; shut down when dropped.
pub struct Api {
    pub url: String,
    pub port: AdminPort,
    pub http: reqwest::Client,
    _serving: DropGuard,
}

/// A service that was ready, with its topic and database.
pub struct TestApp {
    api: Api,
    pub topic: TestTopic,
    pub database: TestDatabase,
}

impl TestApp {
    /// Starts a service on a new topic and waits until it is ready.
    pub async fn ready(partitions: i32) -> Self {
        Self::ready_with(partitions, |_| ()).await
    }

    /// [`TestApp::ready`] with other settings.
    pub async fn ready_with(partitions: i32, change: impl FnOnce(&mut Config)) -> Self {
        let (topic, database) = laid_out(partitions).await;
        Self::on(topic, database, change).await
    }

    /// Starts a service on this topic and database and waits until it is ready.
    pub async fn on(topic: TestTopic, database: TestDatabase, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(&topic.name, &database.url);
        change(&mut config);
        let api = Api::start(config).await;
        api.wait_until_ready().await;
        Self { api, topic, database }
    }
}

impl Deref for TestApp {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

/// A topic, and a database that has its layout.
pub async fn laid_out(partitions: i32) -> (TestTopic, TestDatabase) {
    let (topic, database) = (TestTopic::create(partitions).await, TestDatabase::create().await);
    database.lay_out(&topic.name, partitions).await;
    (topic, database)
}

/// The settings of a service for tests.
pub fn config(topic: &str, database_url: &str) -> Config {
    let kafka = like_testkit::kafka();
    let mut config = Config::parse_from([
        "like-api",
        "--auth-mode=trusted-header",
        "--auth-user-header=X-User-Id",
        "--kafka-bootstrap-servers",
        &kafka,
        "--kafka-topic",
        topic,
        "--database-url",
        database_url,
    ]);
    config.topic_check_interval = Duration::from_millis(200);
    config
}

impl Api {
    /// Starts a service without Kafka and PostgreSQL.
    pub async fn alone(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config("t", NO_DATABASE);
        change(&mut config);
        Self::start(config).await
    }

    /// Starts a service; it may not be ready yet.
    pub async fn start(config: Config) -> Self {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { public: bind().await, admin: bind().await };
        let url = format!("http://{}", listeners.public.local_addr().unwrap());
        let port = AdminPort::new(format!("http://{}", listeners.admin.local_addr().unwrap()));
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(config, listeners, shutdown.clone()));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { url, port, http, _serving: shutdown.drop_guard() }
    }

    pub async fn wait_until_ready(&self) {
        until("ready", async || self.port.is_ready().await).await;
    }

    /// The reason that `/readyz` gives for a condition; None: it is met.
    pub async fn waiting_for(&self, condition: &str) -> Option<String> {
        self.port.waiting_for().await.expect("/readyz")[condition].as_str().map(str::to_owned)
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        self.http.get(format!("{}/metrics", self.port.admin)).send().await.unwrap().text().await.unwrap()
    }

    /// A request with headers.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send_body(method, path, headers, "").await
    }

    /// A request with headers and a body, unless that is empty.
    pub async fn send_body(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.body(body.to_owned());
        }
        let answer = Answer::read(request.send().await.unwrap()).await;
        description::assert_described(&method, path, &answer);
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[]).await
    }

    /// `user` likes `product`.
    pub async fn like(&self, product: &str, user: &str) -> Answer {
        self.send(Method::PUT, &format!("/v1/products/{product}/like"), &[("X-User-Id", user)]).await
    }
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub json: Value,
    /// Bytes of the body.
    pub length: usize,
}

impl Answer {
    async fn read(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Self { status, headers, json, length: body.len() }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts a 503 with a time to retry, and a detail that contains `why`.
    #[track_caller]
    pub fn assert_unavailable(&self, name: &str, why: &str) {
        self.assert_problem(503, name);
        assert!(self.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{self:?}");
        assert!(self.json["detail"].as_str().unwrap().contains(why), "{self:?}");
    }

    /// Asserts that this is a problem document of that status and type, with all its members.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, name: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store", "{self:?}");
        assert_eq!(self.json["type"], format!("/problems/{name}"), "{self:?}");
        assert_eq!(self.json["status"], status, "{self:?}");
        assert_eq!(self.json["requestId"], self.header("x-request-id"), "{self:?}");
        assert!(!self.header("x-request-id").is_empty(), "{self:?}");
        for text in ["title", "detail"] {
            assert!(self.json[text].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        }
    }
}

/// Observations of a histogram, and their sum.
pub fn histogram(registry: &Registry, name: &str) -> (u64, f64) {
    let found = registry.gather().into_iter().find(|family| family.name() == name);
    let found = found.unwrap_or_else(|| panic!("no {name}"));
    let histogram = found.get_metric()[0].get_histogram();
    (histogram.get_sample_count(), histogram.get_sample_sum())
}

/// The record at a position, from the log itself.
pub fn record_at(topic: &str, partition: i32, offset: i64) -> OwnedMessage {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", like_testkit::kafka())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .create()
        .unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    consumer.assign(&place).unwrap();
    let record = consumer.poll(Duration::from_secs(30)).expect("a record within 30 s").expect("a record");
    assert_eq!((record.partition(), record.offset()), (partition, offset));
    record.detach()
}
