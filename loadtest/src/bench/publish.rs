//! What a like costs like-api, beside the least that an axum service can do. All are loaded in turn
//! within one run. Client, services and broker share the machine's processors: a rate in the closed
//! loop is what they leave to the service, and processor time is the service's own.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::put;
use axum::serve::ListenerExt;
use like_testkit::process::{TestProcess, free_addr};
use like_testkit::tokens::{TestKey, claims, in_seconds};
use like_testkit::{TestService, eventually};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::sender::{Connection, Load, Plan, product, send, user_header};
use super::{Bench, Row, address, median, medians, seconds, system};
use crate::row;
use crate::usage::{cpu_seconds, memory_mib};

const CONNECTIONS: [u32; 3] = [64, 256, 1000];
const PRODUCTS: u64 = 1_000;
/// All of their tokens are in the cache after the first second.
const USERS: u64 = 2_000;
/// The length of like-api's body.
const BODY: &str =
    r#"{"eventId":"0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","productId":"p123","liked":true,"receipt":"1-17-123456"}"#;
const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "likes";

/// One of the services that are compared.
struct Subject {
    name: &'static str,
    addr: std::net::SocketAddr,
    pid: u32,
    /// The `Authorization` header of each user; empty: the user is in a trusted header.
    tokens: Arc<[String]>,
}

/// Closed loop at three numbers of connections and with one product, then fixed rates of a half and
/// a quarter of the highest rate.
pub async fn publish(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let system = system().await;
    let (bare, bare_addr) = start_bare().await?;
    let (secret, tokens) = tokens();
    let with_tokens = [
        ("AUTH_MODE", "jwt"),
        ("JWT_SECRET", &*secret),
        ("JWT_ISSUER", ISSUER),
        ("JWT_AUDIENCE", AUDIENCE),
        // Checked for each like, and never reached.
        ("RATE_LIMIT_USER", "100000"),
    ];
    let logged = [&with_tokens[..], &[("RUST_LOG", "info,like_api::access=debug"), ("LOG_FORMAT", "json")]].concat();
    let services = [
        ("like-api, header, no limits", system.api(&[("SHED_ABOVE", "0s")]).await, Arc::default()),
        ("like-api, token, limits", system.api(&with_tokens).await, Arc::clone(&tokens)),
        ("the same, each request logged", system.api(&logged).await, tokens),
    ];
    let mut subjects =
        vec![Subject { name: "bare axum route", addr: bare_addr, pid: bare.id(), tokens: Arc::default() }];
    for (name, service, tokens) in &services {
        subjects.push(Subject::of(name, service, tokens)?);
    }
    let duration = seconds(bench, 2, 5);
    let closed = |duration| Load::Closed { likes: u64::MAX, duration };
    for subject in &subjects {
        subject.run("first requests", closed(Duration::from_secs(1)), 64, PRODUCTS).await?;
    }
    let mut rows = Vec::new();
    for (connections, products) in CONNECTIONS.map(|connections| (connections, PRODUCTS)).into_iter().chain([(64, 1)]) {
        let shown = format!("closed loop, {connections} connections, {products} products");
        rows.extend(rounds(bench, &subjects, &shown, closed(duration), connections, products).await?);
    }
    let of_one = rows.iter().filter(|row| row["service"] == subjects[1].name);
    let highest = of_one.filter_map(|row| row["per_second"].as_f64()).fold(0.0, f64::max);
    for (part, shown) in [(0.5, "open, half of the highest rate"), (0.25, "open, a quarter of it")] {
        let load = Load::Open { rate: highest * part, duration, latest: Duration::MAX };
        rows.extend(rounds(bench, &subjects, shown, load, 1_000, PRODUCTS).await?);
    }
    Ok(rows)
}

/// All subjects in turn, another one first in each round; the medians, and of the ratio that of each
/// round.
async fn rounds(
    bench: &Bench,
    subjects: &[Subject],
    shown: &str,
    load: Load,
    connections: u32,
    products: u64,
) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![Vec::new(); subjects.len()];
    for round in 0..if bench.quick { 2 } else { 3 } {
        for turn in 0..subjects.len() {
            let number = (turn + round) % subjects.len();
            rows[number].push(subjects[number].run(shown, load, connections, products).await?);
        }
    }
    let cpu = |row: &Row| row["cpu_us"].as_f64().unwrap_or_default();
    let with_ratio = |own: &Vec<Row>| {
        let mut row = medians(own);
        let ratios = own.iter().zip(&rows[0]).map(|(own, bare)| cpu(own) / cpu(bare));
        row.extend(row! { "cpu_over_bare": super::rounded(median(ratios)) });
        row
    };
    Ok(rows.iter().map(with_ratio).collect())
}

impl Subject {
    fn of(name: &'static str, service: &TestService, tokens: &Arc<[String]>) -> anyhow::Result<Self> {
        Ok(Self { name, addr: address(service)?, pid: service.process.id(), tokens: Arc::clone(tokens) })
    }

    async fn run(&self, shown: &str, load: Load, connections: u32, products: u64) -> anyhow::Result<Row> {
        let tokens = Arc::clone(&self.tokens);
        let like = move |number: u64| {
            let token = tokens.get((number % USERS) as usize).cloned();
            (product(number, products), token.unwrap_or_else(|| user_header(&format!("u{number}"))))
        };
        let before = cpu_seconds(self.pid)?;
        let sent = send(Plan { addr: self.addr, load, connections }, like, |_| ()).await?;
        let cpu = cpu_seconds(self.pid)? - before;
        ensure!(!sent.times_ms.is_empty(), "{}: no like was acknowledged", self.name);
        Ok(row! {
            "load": shown,
            "service": self.name,
            "per_second": sent.per_second,
            "cpu_us": cpu * 1e6 / sent.times_ms.len() as f64,
            "p50_ms": sent.percentile(50.0),
            "p99_ms": sent.percentile(99.0),
            "rss_mib": memory_mib(self.pid)?,
            "failed": sent.failed as f64,
        })
    }
}

/// A secret of this run, and a header for each user, valid for a day.
fn tokens() -> (String, Arc<[String]>) {
    // Two of them: a secret has at least 32 bytes.
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let key = TestKey::of_secret(&secret);
    let header = |user| {
        let mut claims = claims(ISSUER, AUDIENCE, &format!("auth0|{user:024x}"));
        claims["exp"] = in_seconds(86_400).into();
        format!("Authorization: Bearer {}\r\n", key.sign(&claims))
    };
    (secret, (0..USERS).map(header).collect())
}

/// This program again, as [`serve_bare_route`].
async fn start_bare() -> anyhow::Result<(TestProcess, std::net::SocketAddr)> {
    let addr = free_addr();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--bare-route", &addr.to_string()]);
    let process = TestProcess::start("bare route", command);
    eventually("the bare route listens", async || Connection::open(addr).await.ok()).await;
    Ok((process, addr))
}

/// The baseline: one route of like-api's shape that responds 202 with a fixed body, on the default
/// runtime and `axum::serve`.
pub async fn serve_bare_route(addr: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr).await?;
    let respond = async || (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], BODY);
    let router = Router::new().route("/v1/products/{productId}/like", put(respond));
    axum::serve(listener.tap_io(|stream| drop(stream.set_nodelay(true))), router).await?;
    Ok(())
}
