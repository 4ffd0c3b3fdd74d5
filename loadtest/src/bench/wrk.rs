//! Load in a closed loop, by wrk: each connection sends its next like when the last one is
//! answered. Around it, what the program under load used.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::aggregator::{cpu, peak_memory_mib};
use crate::api::{Api, memory_mib};

/// What the script prints at the end.
#[derive(Deserialize)]
struct Report {
    requests: u64,
    seconds: f64,
    refused: u64,
    broken: u64,
    p50_ms: f64,
    p99_ms: f64,
}

/// What one run has shown.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Answers of 202 in a second.
    pub per_second: f64,
    /// Processor time of the program for each, in and out of the kernel, in microseconds.
    pub cpu_us: f64,
    /// Milliseconds.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// In MiB, with all connections open.
    pub memory_mib: f64,
    /// The most so far, in MiB.
    pub peak_memory_mib: f64,
    /// Other answers, and none.
    pub failed: u64,
}

/// Likes for `products` products, all alike, of users that a header names; with `tokens`, a file of
/// one token a line, of theirs.
pub async fn run(
    target: &Api,
    connections: u32,
    products: u32,
    tokens: Option<&Path>,
    duration: Duration,
) -> anyhow::Result<Run> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/likes.lua");
    let before = cpu(target.pid()).context("/proc")?;
    let child = Command::new("wrk")
        .args(["-t2", &format!("-c{connections}"), &format!("-d{}s", duration.as_secs()), "--timeout", "10s", "-s"])
        .arg(script)
        .args([&format!("http://{}", target.addr), "--", &products.to_string()])
        .args(tokens)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("wrk (loadtest/measure.sh installs it)")?;
    tokio::time::sleep(duration.mul_f64(0.8)).await;
    let memory_mib = memory_mib(target.pid()).context("/proc")?;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let used = cpu(target.pid()).context("/proc")? - before;

    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {}\n{text}", output.status);
    let line = text.lines().last().unwrap_or_default();
    let report: Report = serde_json::from_str(line).with_context(|| format!("wrk: {text}"))?;
    let acknowledged = (report.requests - report.refused) as f64;
    ensure!(acknowledged > 0.0, "no like was acknowledged: {text}");
    Ok(Run {
        per_second: acknowledged / report.seconds,
        cpu_us: (used.user + used.system) * 1e6 / acknowledged,
        p50_ms: report.p50_ms,
        p99_ms: report.p99_ms,
        memory_mib,
        peak_memory_mib: peak_memory_mib(target.pid()).context("/proc")?,
        failed: report.refused + report.broken,
    })
}
