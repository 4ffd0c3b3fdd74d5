//! The program itself: settings it refuses, its health check, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use like_testkit::{AdminPort, TestDatabase, TestTopic, eventually};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};

/// The program with these settings alone.
pub fn program(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_like-api"));
    command.env_clear().envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Settings with which it starts; those in `changes` are set, or with "-" left out.
pub fn settings<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let usual = [
        ("AUTH_MODE", "trusted-header"),
        ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"),
        ("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/d"),
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("ADMIN_ADDR", "127.0.0.1:0"),
    ];
    let kept = usual.into_iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes.iter().copied().filter(|(_, value)| *value != "-")).collect()
}

#[track_caller]
pub fn one_line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
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
        (&[("AUTH_HEADER_ALLOW_PUBLIC", "perhaps")], &["AUTH_HEADER_ALLOW_PUBLIC", "'perhaps'"]),
        (&[("KAFKA_CONFIG_FILE", "/nowhere")], &["KAFKA_CONFIG_FILE", "/nowhere"]),
        (&[("RATE_LIMIT_USER", "-1")], &["RATE_LIMIT_USER", "'-1'", "0.5"]),
        (&[("RATE_LIMIT_USER_BURST", "0")], &["RATE_LIMIT_USER_BURST", "from 1"]),
        (&[("RATE_LIMIT_ADDRESS", "ten")], &["RATE_LIMIT_ADDRESS", "'ten'"]),
        (&[("TRUSTED_PROXIES", "10.0.0.0/8,10.1.2.3/8")], &["TRUSTED_PROXIES", "write 10.0.0.0/8 or 10.1.2.3"]),
        (&[("TRUSTED_PROXIES_HEADER", "x-real-ip")], &["TRUSTED_PROXIES_HEADER", "x-forwarded-for or forwarded"]),
        (&[("MAX_CONNECTIONS", "0")], &["MAX_CONNECTIONS", "'0'"]),
        (&[("SHED_ABOVE", "soon")], &["SHED_ABOVE", "'soon'", "100ms"]),
        (&[("TOKIO_WORKER_THREADS", "two")], &["TOKIO_WORKER_THREADS", "'two'", "above 0"]),
        (&[("CORS_ALLOWED_ORIGINS", "https://a.example/")], &["CORS_ALLOWED_ORIGINS", "write https://a.example"]),
        // Anybody who reaches the listener could be anybody.
        (&[("LISTEN_ADDR", "0.0.0.0:0")], &["LISTEN_ADDR=0.0.0.0:0", "AUTH_HEADER_ALLOW_PUBLIC=true", "X-User-Id"]),
        (&[("LISTEN_ADDR", "[::]:0")], &["LISTEN_ADDR=[::]:0", "AUTH_HEADER_ALLOW_PUBLIC=true"]),
        (
            &[("LISTEN_ADDR", "192.0.2.1:80"), ("AUTH_USER_HEADER", "X-Me"), ("AUTH_HEADER_ALLOW_PUBLIC", "no")],
            &["LISTEN_ADDR=192.0.2.1:80", "X-Me"],
        ),
    ] {
        let output = program(&settings(changes)).output().unwrap();
        let line = one_line(&output);
        assert_eq!(output.status.code(), Some(2), "{line}");
        for part in said {
            assert!(line.contains(part), "{line} lacks {part}");
        }
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

/// A running program; killed with the value.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub log: String,
    pub public: String,
    pub admin: String,
}

impl Running {
    /// Starts it and reads its log up to the line that says where it listens.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let mut child = program(settings).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut log = String::new();
        while !log.contains("listening") {
            assert_ne!(stdout.read_line(&mut log).unwrap(), 0, "{log}");
        }
        let addr = |name: &str| log.split(&format!("{name}=")).nth(1).unwrap().split_whitespace().next().unwrap();
        let (public, admin) = (addr("public_addr").to_owned(), addr("admin_addr").to_owned());
        Self { child, stdout, log, public, admin }
    }

    pub fn signal(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for its end, and answers its exit status and its log.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut log = std::mem::take(&mut self.log);
        self.stdout.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn shutdown_is_quick_without_dependencies() {
    let public = [("LISTEN_ADDR", "0.0.0.0:0"), ("AUTH_HEADER_ALLOW_PUBLIC", "yes"), ("AUTH_USER_HEADER", "X-Me")];
    let running = Running::start(&settings(&public));
    assert!(running.log.contains("auth_mode=\"trusted-header\" header=\"X-Me\""), "{}", running.log);
    let signalled = Instant::now();
    running.signal();
    let (status, log) = running.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    assert!(!log.contains("still in progress"), "{log}");
    assert!(!log.contains("secret"));
}

#[test]
fn idle_connections_do_not_delay_shutdown() {
    let running = Running::start(&settings(&[]));
    let connect = || TcpStream::connect(&running.public).unwrap();
    let (_new, mut used) = (connect(), connect());
    used.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    used.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
    let signalled = Instant::now();
    running.signal();
    let (status, log) = running.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("still in progress"), "{log}");
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
}

#[tokio::test]
async fn healthcheck_needs_the_admin_port_only() {
    let health = async |admin: &str| {
        let output = program(&[("ADMIN_ADDR", admin)]).arg("healthcheck").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, text) = health("127.0.0.1:1").await;
    assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");

    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    let kafka = like_testkit::kafka();
    let running = Running::start(&settings(&[
        ("KAFKA_BOOTSTRAP_SERVERS", &kafka),
        ("KAFKA_TOPIC", &topic.name),
        ("DATABASE_URL", &database.url),
    ]));
    let (status, text) = health(&running.admin).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("not ready"), "{text}");
    database.lay_out(&topic.name, 1).await;
    eventually("healthy", async || (health(&running.admin).await.0 == Some(0)).then_some(())).await;
}

/// One that is ready, and whose producer keeps an event to itself for so long that a signal surely
/// comes before it is sent.
struct Lingering {
    running: Running,
    topic: TestTopic,
    _database: TestDatabase,
    http: reqwest::Client,
}

impl Lingering {
    async fn start(linger_ms: u32) -> Self {
        let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
        database.lay_out(&topic.name, 1).await;
        let kafka = like_testkit::kafka();
        let mut properties = tempfile::NamedTempFile::new().unwrap();
        writeln!(properties, "linger.ms={linger_ms}").unwrap();
        let running = Running::start(&settings(&[
            ("KAFKA_BOOTSTRAP_SERVERS", &kafka),
            ("KAFKA_TOPIC", &topic.name),
            ("KAFKA_CONFIG_FILE", properties.path().to_str().unwrap()),
            ("DATABASE_URL", &database.url),
        ]));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let lingering = Self { running, topic, _database: database, http };
        let ready = async || (lingering.admin("/readyz").await.status() == StatusCode::OK).then_some(());
        eventually("ready", ready).await;
        lingering
    }

    async fn admin(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("http://{}{path}", self.running.admin)).send().await.unwrap()
    }

    async fn has_queued_an_event(&self) {
        let queued = async || self.admin("/metrics").await.text().await.unwrap().contains("queued_events 1");
        eventually("the event is queued", async || queued().await.then_some(())).await;
    }
}

#[tokio::test]
async fn shutdown_acknowledges_likes_in_progress() {
    let lingering = Lingering::start(2000).await;
    let Lingering { running, http, .. } = &lingering;
    let like = http.put(format!("http://{}/v1/products/p1/like", running.public)).header("X-User-Id", "u1");
    let like = tokio::spawn(like.send());
    lingering.has_queued_an_event().await;
    let signalled = Instant::now();
    running.signal();
    let unready = async || (lingering.admin("/readyz").await.status() != StatusCode::OK).then_some(());
    eventually("not ready", unready).await;
    let refused = || TcpStream::connect(&running.public).is_err() && !like.is_finished();
    eventually("new callers are refused while it finishes", async || refused().then_some(())).await;
    assert_eq!(like.await.unwrap().unwrap().status(), StatusCode::ACCEPTED);
    let Lingering { running, topic, _database, .. } = lingering;
    let (status, log) = tokio::task::spawn_blocking(|| running.end()).await.unwrap();
    assert_eq!(status, Some(0), "{log}");
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    // It has finished, and not given up.
    assert!(!log.contains("still in progress"), "{log}");
    assert_eq!(topic.end_offsets(), [1]);
}

#[tokio::test]
async fn shutdown_flushes_events_without_caller() {
    let lingering = Lingering::start(4000).await;
    let mut caller = TcpStream::connect(&lingering.running.public).unwrap();
    caller.write_all(b"PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nX-User-Id: u1\r\n\r\n").unwrap();
    lingering.has_queued_an_event().await;
    drop(caller);
    let Lingering { running, topic, _database, .. } = lingering;
    running.signal();
    let (status, log) = tokio::task::spawn_blocking(|| running.end()).await.unwrap();
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(topic.end_offsets(), [1]);
}

#[tokio::test]
async fn shutdown_answers_receipt_waiters() {
    let (topic, database) = (TestTopic::create(1).await, TestDatabase::create().await);
    database.lay_out(&topic.name, 1).await;
    topic.publish(Some(0), Some(b"p1"), Some(b"{}"));
    topic.flush();
    let kafka = like_testkit::kafka();
    let running = Running::start(&settings(&[
        ("KAFKA_BOOTSTRAP_SERVERS", &kafka),
        ("KAFKA_TOPIC", &topic.name),
        ("DATABASE_URL", &database.url),
    ]));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let wait = http.get(format!("http://{}/v1/receipts/1-0-0", running.public)).header("Prefer", "wait=10");
    let wait = tokio::spawn(wait.send());
    let port = AdminPort::new(format!("http://{}", running.admin));
    eventually("it waits", async || (port.metric("likes_receipt_waiters", "").await > 0.0).then_some(())).await;
    running.signal();
    let answer = wait.await.unwrap().unwrap();
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["status"], "pending");
    let (status, log) = tokio::task::spawn_blocking(|| running.end()).await.unwrap();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("still in progress"), "{log}");
}

#[tokio::test]
async fn shutdown_ends_streams_cleanly() {
    let database = TestDatabase::create().await;
    let running = Running::start(&settings(&[("DATABASE_URL", &database.url)]));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut streams = Vec::new();
    for ids in ["p1", "p1,p2"] {
        let url = format!("http://{}/v1/likes/stream?ids={ids}", running.public);
        let mut stream = http.get(url).send().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        assert!(stream.chunk().await.unwrap().unwrap().starts_with(b"retry: "));
        streams.push(stream);
    }
    running.signal();
    for stream in &mut streams {
        // An error if the connection were only cut.
        while stream.chunk().await.unwrap().is_some() {}
    }
    let (status, log) = tokio::task::spawn_blocking(|| running.end()).await.unwrap();
    assert_eq!(status, Some(0), "{log}");
    assert!(!log.contains("still in progress"), "{log}");
}
