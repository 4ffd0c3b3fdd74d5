//! A like-api in this process, on free ports, and requests to it.

use std::time::Duration;

use clap::Parser;
use like_api::config::Config;
use like_api::server::{Listeners, serve};
use like_testkit::{TestDatabase, TestTopic, eventually};
use prometheus::Registry;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::description;

/// A running service; asked to end with the value.
pub struct Api {
    pub url: String,
    pub admin: String,
    pub http: reqwest::Client,
    _serving: DropGuard,
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
    /// Starts one; it may not be ready yet.
    pub async fn start(config: Config) -> Self {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { public: bind().await, admin: bind().await };
        let url = format!("http://{}", listeners.public.local_addr().unwrap());
        let admin = format!("http://{}", listeners.admin.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(config, listeners, shutdown.clone()));
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        Self { url, admin, http, _serving: shutdown.drop_guard() }
    }

    /// Starts one and waits until it is ready.
    pub async fn ready(topic: &TestTopic, database: &TestDatabase) -> Self {
        let api = Self::start(config(&topic.name, &database.url)).await;
        api.wait_until_ready().await;
        api
    }

    pub async fn wait_until_ready(&self) {
        eventually("ready", async || (self.readiness().await.0 == StatusCode::OK).then_some(())).await;
    }

    /// Status and body of `/readyz`.
    pub async fn readiness(&self) -> (StatusCode, Value) {
        let response = self.http.get(format!("{}/readyz", self.admin)).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// A request with headers.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
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

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub json: Value,
    /// Of the body, in bytes.
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
