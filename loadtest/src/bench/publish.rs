//! What a like costs like-api and the broker, from one connection to a thousand and from 100 likes per second to 15,000.
//! Client, services and broker share the machine's processors: a rate in the closed loop is what they leave to the service,
//! and processor time is each process's own. At two loads, other set-ups and the least that an axum service can do beside it.

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
use super::{Bench, Row, address, medians, seconds, system};
use crate::row;
use crate::usage::{cpu_seconds, memory_mib};

const CONNECTIONS: [u32; 5] = [1, 16, 64, 256, 1_000];
/// Likes per second in the open model.
const RATES: [u32; 3] = [100, 2_000, 15_000];
/// Where all services are compared.
const COMPARED: [u32; 2] = [CONNECTIONS[3], RATES[2]];
const PRODUCTS: u64 = 1_000;
/// All of their tokens are in the cache after the first second.
const USERS: u64 = 2_000;
/// The length of like-api's body.
const BODY: &str =
    r#"{"eventId":"0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","productId":"p123","liked":true,"receipt":"1-17-123456"}"#;
const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "likes";

/// One of the services that are compared.
struct Subject<'a> {
    name: &'static str,
    addr: std::net::SocketAddr,
    pid: u32,
    /// None: it publishes nothing.
    api: Option<&'a TestService>,
    /// The `Authorization` header of each user; empty: the user is in a trusted header.
    tokens: Arc<[String]>,
}

/// Closed loop by number of connections and with one product, then fixed rates.
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
    let mut subjects = Vec::new();
    for (name, service, tokens) in &services {
        let (addr, pid) = (address(service)?, service.process.id());
        subjects.push(Subject { name, addr, pid, api: Some(service), tokens: Arc::clone(tokens) });
    }
    let name = "bare axum route";
    subjects.push(Subject { name, addr: bare_addr, pid: bare.id(), api: None, tokens: Arc::default() });
    let duration = seconds(bench, 2, 5);
    let closed = |duration| Load::Closed { likes: u64::MAX, duration };
    for subject in &subjects {
        subject.run(bench, "first requests", closed(Duration::from_secs(1)), 64, PRODUCTS).await?;
    }
    let subjects_at = |load| if COMPARED.contains(&load) { &subjects[..] } else { &subjects[..1] };
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let shown = format!("closed loop, {connections} connections");
        rows.extend(rounds(bench, subjects_at(connections), &shown, closed(duration), connections, PRODUCTS).await?);
    }
    let shown = "closed loop, 64 connections, one product";
    rows.extend(rounds(bench, &subjects[..1], shown, closed(duration), 64, 1).await?);
    for rate in RATES {
        let load = Load::Open { rate: f64::from(rate), duration, latest: Duration::MAX };
        let shown = format!("open, {rate} per second");
        rows.extend(rounds(bench, subjects_at(rate), &shown, load, 1_000, PRODUCTS).await?);
    }
    Ok(rows)
}

/// The medians of all subjects, which run in turn, another one first in each round.
async fn rounds(
    bench: &Bench,
    subjects: &[Subject<'_>],
    shown: &str,
    load: Load,
    connections: u32,
    products: u64,
) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![Vec::new(); subjects.len()];
    for round in 0..if bench.quick { 2 } else { 3 } {
        for turn in 0..subjects.len() {
            let number = (turn + round) % subjects.len();
            rows[number].push(subjects[number].run(bench, shown, load, connections, products).await?);
        }
    }
    Ok(rows.iter().map(|own| medians(own)).collect())
}

impl Subject<'_> {
    async fn run(
        &self,
        bench: &Bench,
        shown: &str,
        load: Load,
        connections: u32,
        products: u64,
    ) -> anyhow::Result<Row> {
        let tokens = Arc::clone(&self.tokens);
        let like = move |number: u64| {
            let token = tokens.get((number % USERS) as usize).cloned();
            (product(number, products), token.unwrap_or_else(|| user_header(&format!("u{number}"))))
        };
        let used = async || {
            let batches = match self.api {
                Some(api) => api.metric("likes_producer_batches_total", "").await,
                None => 0.0,
            };
            anyhow::Ok([cpu_seconds(self.pid)? * 1e6, cpu_seconds(bench.kafka_pid)? * 1e6, batches])
        };
        let before = used().await?;
        let sent = send(Plan { addr: self.addr, load, connections }, like, |_| ()).await?;
        let after = used().await?;
        ensure!(!sent.times_ms.is_empty(), "{}: no like was acknowledged", self.name);
        let per_like = |number: usize| (after[number] - before[number]) / sent.times_ms.len() as f64;
        Ok(row! {
            "load": shown,
            "service": self.name,
            "per_second": sent.per_second,
            "p50_ms": sent.percentile(50.0),
            "p99_ms": sent.percentile(99.0),
            "cpu_us": per_like(0),
            "broker_cpu_us": self.api.map(|_| per_like(1)),
            // One batch is one partition's part of a produce request. None by versions without the metric.
            "likes_per_batch": Some(per_like(2).recip()).filter(|likes| likes.is_finite()),
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
