//! The program: the settings that it refuses, its health check and its shutdown.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use like_testkit::process::TestProcess;
use like_testkit::{AdminPort, TestDatabase, TestTopic, until};
use reqwest::StatusCode;

use crate::common::laid_out;
use crate::connections::used;
use crate::wire::Wire;

/// The program with these settings and no other environment.
pub fn program(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_like-api"));
    command.env_clear().envs(settings.iter().copied());
    command
}

/// Valid settings with these changes, of which the last of a name counts; "-" leaves a setting out.
pub fn settings<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [
        ("AUTH_MODE", "trusted-header"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/d"),
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("ADMIN_ADDR", "127.0.0.1:0"),
    ];
    let mut all = BTreeMap::from(usual);
    all.extend(changes.iter().copied());
    all.into_iter().filter(|(_, value)| *value != "-").collect()
}

#[track_caller]
pub fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Asserts that the program refuses these settings in one line with these parts, and returns it.
#[track_caller]
pub fn refused(settings: &[(&str, &str)], said: &[&str]) -> String {
    let output = program(settings).output().unwrap();
    let line = one_line(&output);
    assert_eq!(output.status.code(), Some(2), "{line}");
    for part in said {
        assert!(line.contains(part), "{line} lacks {part}");
    }
    line
}

#[test]
fn invalid_settings_are_named_in_one_line() {
    for (changes, said) in [
        (&[("AUTH_MODE", "-")][..], &["AUTH_MODE", "is not set", "trusted-header"][..]),
        (&[("AUTH_MODE", "")], &["AUTH_MODE", "empty", "trusted-header"]),
        (&[("AUTH_MODE", "none")], &["AUTH_MODE", "'none'", "trusted-header"]),
        (&[("KAFKA_BOOTSTRAP_SERVERS", "-")], &["KAFKA_BOOTSTRAP_SERVERS", "is not set"]),
        (&[("DATABASE_URL", "-")], &["DATABASE_URL", "is not set"]),
        (&[("LISTEN_ADDR", "here")], &["LISTEN_ADDR", "'here'"]),
        (&[("AUTH_USER_HEADER", "a b")], &["AUTH_USER_HEADER", "'a b'"]),
        (&[("AUTH_HEADER_FROM", "gateway")], &["AUTH_HEADER_FROM", "'gateway'"]),
        (&[("KAFKA_CONFIG_FILE", "/nowhere")], &["KAFKA_CONFIG_FILE", "/nowhere"]),
        (&[("RATE_LIMIT_USER", "-1")], &["RATE_LIMIT_USER", "'-1'", "0.5"]),
        (&[("RATE_LIMIT_USER_BURST", "0")], &["RATE_LIMIT_USER_BURST", "from 1"]),
        (&[("RATE_LIMIT_ADDRESS", "ten")], &["RATE_LIMIT_ADDRESS", "'ten'"]),
        (&[("TRUSTED_PROXIES", "10.0.0.0/8,10.1.2.3/8")], &["TRUSTED_PROXIES", "write 10.0.0.0/8 or 10.1.2.3"]),
        (&[("TRUSTED_PROXIES_HEADER", "x-real-ip")], &["TRUSTED_PROXIES_HEADER", "x-forwarded-for or forwarded"]),
        (&[("MAX_CONNECTIONS", "0")], &["MAX_CONNECTIONS", "'0'"]),
        (&[("IDLE_TIMEOUT", "0s")], &["IDLE_TIMEOUT", "'0s'", "1s to"]),
        (&[("SHUTDOWN_DELAY", "1h")], &["SHUTDOWN_DELAY", "'1h'", "5m"]),
        (&[("ADDRESS_SHARE", "0")], &["ADDRESS_SHARE", "'0'", "percent"]),
        (&[("SHED_ABOVE", "soon")], &["SHED_ABOVE", "'soon'", "100ms"]),
        (&[("TOKIO_WORKER_THREADS", "two")], &["TOKIO_WORKER_THREADS", "'two'", "above 0"]),
        (&[("CORS_ALLOWED_ORIGINS", "https://a.example/")], &["CORS_ALLOWED_ORIGINS", "write https://a.example"]),
        (&[("CORS_ALLOWED_HEADERS", "a b")], &["CORS_ALLOWED_HEADERS", "'a b'"]),
        (&[("CORS_ALLOWED_HEADERS", "x-user-id")], &["CORS_ALLOWED_HEADERS has X-User-Id", "gateway"]),
        // Every client of the listener could name any user.
        (&[("LISTEN_ADDR", "0.0.0.0:0")], &["LISTEN_ADDR=0.0.0.0:0", "AUTH_HEADER_FROM", "X-User-Id"]),
        (&[("LISTEN_ADDR", "[::]:0")], &["LISTEN_ADDR=[::]:0", "AUTH_HEADER_FROM"]),
        (&[("LISTEN_ADDR", "192.0.2.1:80"), ("AUTH_USER_HEADER", "X-Me")], &["LISTEN_ADDR=192.0.2.1:80", "X-Me"]),
    ] {
        refused(&settings(changes), said);
    }
}

#[test]
fn limits_fit_the_open_files() {
    for (changes, said) in [
        (&[("MAX_CONNECTIONS", "737")][..], "MAX_CONNECTIONS=737 is too high: this process may open 1000 files"),
        (&[("MAX_CONNECTIONS", "50"), ("MAX_STREAMS", "50")], "MAX_STREAMS=50 is too high"),
        (&[("MAX_STREAMS", "736")], "which are 736"),
    ] {
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "ulimit -n 1000; exec \"$0\"", env!("CARGO_BIN_EXE_like-api")]);
        let output = limited.env_clear().envs(settings(changes)).output().unwrap();
        assert!(output.status.code() == Some(2) && one_line(&output).contains(said), "{output:?}");
    }
}

#[test]
fn address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for setting in ["LISTEN_ADDR", "ADMIN_ADDR"] {
        let output = program(&settings(&[(setting, &addr)])).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(one_line(&output).contains(&format!("{setting}={addr}")));
    }
}

/// A running program; ended when dropped.
pub struct Running {
    process: TestProcess,
    pub public: String,
    pub admin: String,
}

impl Running {
    /// Starts it and waits until it listens.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let process = TestProcess::start("like-api", program(settings));
        process.says("listening").await;
        let log = process.log();
        let addr = |name: &str| log.split(&format!("{name}=")).nth(1).unwrap().split_whitespace().next().unwrap();
        let (public, admin) = (addr("public_addr").to_owned(), addr("admin_addr").to_owned());
        Self { process, public, admin }
    }

    /// Starts it on this topic and database.
    async fn start_on(topic: &TestTopic, database: &TestDatabase, more: &[(&str, &str)]) -> Self {
        let kafka = like_testkit::kafka();
        let on: [(&str, &str); 3] = [
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.as_str()),
            ("KAFKA_TOPIC", &topic.name),
            ("DATABASE_URL", &database.url),
        ];
        Self::start(&settings(&[&on[..], more].concat())).await
    }

    pub fn port(&self) -> AdminPort {
        AdminPort::new(format!("http://{}", self.admin))
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits for its end, asserts that it succeeded and left no request unanswered, and returns its log.
    pub async fn ended(mut self) -> String {
        let (status, log) = (self.process.ended().await, self.process.log());
        assert!(status.success(), "{log}");
        assert!(!log.contains("still in progress"), "{log}");
        log
    }
}

#[tokio::test]
async fn shutdown_is_quick_without_dependencies() {
    let public = [("LISTEN_ADDR", "0.0.0.0:0"), ("AUTH_HEADER_FROM", "10.0.0.0/8"), ("AUTH_USER_HEADER", "X-Me")];
    let running = Running::start(&settings(&public)).await;
    let log = running.process.log();
    assert!(log.contains("auth_mode=\"trusted-header\" header=\"X-Me\""), "{log}");
    let signalled = Instant::now();
    running.terminate();
    assert!(!running.ended().await.contains("secret"));
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
}

#[tokio::test]
async fn idle_connections_do_not_delay_shutdown() {
    let running = Running::start(&settings(&[])).await;
    let url = format!("http://{}", running.public);
    let _connections = (Wire::to(&url), used(&url));
    let signalled = Instant::now();
    running.terminate();
    running.ended().await;
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
}

#[tokio::test]
async fn partial_requests_do_not_delay_shutdown() {
    let running = Running::start(&settings(&[])).await;
    let url = format!("http://{}", running.public);
    let (mut head, mut second_head, mut body) = (Wire::to(&url), used(&url), Wire::to(&url));
    head.send("GET /nowhere HTTP/1.1\r\nHost:");
    second_head.send("G");
    body.send("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345");
    running.terminate();
    // Otherwise the log says that requests were still in progress.
    running.ended().await;
}

#[tokio::test]
async fn delayed_shutdown_keeps_serving() {
    let running = Running::start(&settings(&[("SHUTDOWN_DELAY", "3s")])).await;
    let (url, port) = (format!("http://{}", running.public), running.port());
    let mut before = used(&url);
    running.process.hang_up();
    running.process.says("SIGHUP ignored").await;
    running.terminate();
    port.waits_for("shutdown", "").await;
    for wire in [&mut before, &mut Wire::to(&url)] {
        wire.send("GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("connection")), (404, "close"), "{answer:?}");
        wire.is_closed();
    }
    running.ended().await;
}

#[tokio::test]
async fn healthcheck_needs_the_admin_port_only() {
    let ask = async |admin: &str, how: &[&str]| {
        let output = program(&[("ADMIN_ADDR", admin)]).arg("healthcheck").args(how).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let health = async |admin: &str| ask(admin, &["--ready"]).await;
    let (status, text) = health("127.0.0.1:1").await;
    assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");

    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    let running = Running::start_on(&topic, &database, &[]).await;
    let (status, text) = health(&running.admin).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("not ready"), "{text}");
    // A container's health must not depend on other servers.
    assert_eq!(ask(&running.admin, &[]).await.0, Some(0));
    database.lay_out(&topic.name, 1).await;
    until("healthy", async || health(&running.admin).await.0 == Some(0)).await;
}

/// A ready service whose producer holds an event back until long after a signal.
struct Lingering {
    running: Running,
    topic: TestTopic,
    _database: TestDatabase,
    port: AdminPort,
}

impl Lingering {
    async fn start(linger_ms: u32) -> Self {
        let (topic, database) = laid_out(1).await;
        let mut properties = tempfile::NamedTempFile::new().unwrap();
        writeln!(properties, "linger.ms={linger_ms}").unwrap();
        let file = [("KAFKA_CONFIG_FILE", properties.path().to_str().unwrap())];
        let running = Running::start_on(&topic, &database, &file).await;
        let port = running.port();
        until("ready", async || port.is_ready().await).await;
        Self { running, topic, _database: database, port }
    }

    async fn has_queued_an_event(&self) {
        until("the event is queued", async || self.port.metric("likes_producer_queued_events", "").await == 1.0).await;
    }
}

#[tokio::test]
async fn shutdown_acknowledges_likes_in_progress() {
    let lingering = Lingering::start(2000).await;
    let Lingering { running, port, .. } = &lingering;
    let like = client().put(format!("http://{}/v1/products/p1/like", running.public)).header("X-User-Id", "u1");
    let like = tokio::spawn(like.send());
    lingering.has_queued_an_event().await;
    let signalled = Instant::now();
    running.terminate();
    until("not ready", async || !port.is_ready().await).await;
    let refused = || TcpStream::connect(&running.public).is_err() && !like.is_finished();
    until("new connections are refused before the like is answered", async || refused()).await;
    assert_eq!(like.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
    let Lingering { running, topic, _database, .. } = lingering;
    running.ended().await;
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    assert_eq!(topic.end_offsets(), [1]);
}

#[tokio::test]
async fn shutdown_flushes_events_without_caller() {
    let lingering = Lingering::start(4000).await;
    let mut caller = Wire::to(&format!("http://{}", lingering.running.public));
    caller.send("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nX-User-Id: u1\r\n\r\n");
    lingering.has_queued_an_event().await;
    drop(caller);
    let Lingering { running, topic, _database, .. } = lingering;
    running.terminate();
    running.ended().await;
    assert_eq!(topic.end_offsets(), [1]);
}

#[tokio::test]
async fn shutdown_answers_receipt_waiters() {
    let (topic, database) = laid_out(1).await;
    topic.publish(Some(0), Some(b"p1"), Some(b"{}"));
    topic.flush();
    let running = Running::start_on(&topic, &database, &[]).await;
    let wait = client().get(format!("http://{}/v1/receipts/1-0-0", running.public)).header("Prefer", "wait=10");
    let wait = tokio::spawn(wait.send());
    let port = running.port();
    until("it waits", async || port.metric("likes_receipt_waiters", "").await > 0.0).await;
    running.terminate();
    let answer = wait.await.unwrap().unwrap();
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["status"], "pending");
    running.ended().await;
}

#[tokio::test]
async fn shutdown_ends_streams_cleanly() {
    let database = TestDatabase::create().await;
    let running = Running::start(&settings(&[("DATABASE_URL", &database.url)])).await;
    let mut streams = Vec::new();
    for ids in ["p1", "p1,p2"] {
        let url = format!("http://{}/v1/likes/stream?ids={ids}", running.public);
        let mut stream = client().get(url).send().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        assert!(stream.chunk().await.unwrap().unwrap().starts_with(b"retry: "));
        streams.push(stream);
    }
    running.terminate();
    for stream in &mut streams {
        // An error if the connection is cut without a last chunk.
        while stream.chunk().await.unwrap().is_some() {}
    }
    running.ended().await;
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}
