//! The admin port: `/livez`, `/readyz`, `/metrics`. It has its own listener, so that none of them is
//! reachable through the public port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use prometheus::{PullingGauge, Registry, TextEncoder};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::add;

#[derive(Clone)]
struct Admin {
    health: Health,
    registry: Registry,
}

/// Binds a listener of a service. The error names the setting.
pub async fn bind(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("{setting}={addr} can't be bound"))
}

/// Serves the admin port until `stop`. It should outlive the public port, so that `/readyz` reports
/// the shutdown while requests finish.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    registry: Registry,
    stop: CancellationToken,
) -> std::io::Result<()> {
    register(&registry, &health);
    let router = Router::new()
        .route("/livez", get(async |State(admin): State<Admin>| report("silent", &admin.health.silent())))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin { health, registry });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Registers what `/readyz` and `/livez` answer as metrics, for alerts.
fn register(registry: &Registry, health: &Health) {
    let gauge = |name, help, holds: fn(&Health) -> bool| {
        let health = health.clone();
        let value = move || f64::from(u8::from(holds(&health)));
        add(registry, PullingGauge::new(name, help, Box::new(value)));
    };
    gauge("likes_ready", "1 while /readyz is 200; else 0", Health::is_ready);
    gauge("likes_live", "1 while /livez is 200; else 0", |health| health.silent().is_empty());
}

/// `/readyz?writes` also requires what only writes need.
async fn readyz(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let writes = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("writes")));
    report("waitingFor", &if writes { admin.health.unwritable() } else { admin.health.unready() })
}

/// Returns 200 if nothing is wrong, otherwise 503 with the reasons.
fn report(what: &str, wrong: &BTreeMap<&'static str, String>) -> Response {
    let status = if wrong.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(json!({ "ok": wrong.is_empty(), what: wrong })))
        .into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(body) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The `healthcheck` subcommand: requests `/livez`, or `/readyz`, of the service in this container. Containers are
/// restarted when they are unhealthy, so the default must not depend on other servers. An unspecified address
/// (0.0.0.0, ::) is replaced by loopback.
pub async fn healthcheck(admin_addr: SocketAddr, ready: bool) -> anyhow::Result<()> {
    let path = if ready { "/readyz" } else { "/livez" };
    let mut addr = admin_addr;
    if addr.ip().is_unspecified() {
        addr.set_ip(if addr.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let ask = async {
        let mut stream = TcpStream::connect(addr).await.with_context(|| format!("admin port {addr}"))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(3), ask).await.context("no answer within 3 s")??;
    if answer.split_whitespace().nth(1) != Some("200") {
        let state = if ready { "not ready" } else { "not healthy" };
        bail!("{state}: {}", answer.lines().last().unwrap_or_default());
    }
    Ok(())
}
