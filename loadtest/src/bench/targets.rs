//! What the figures should be on a machine of two cores, and whether they are.

use serde_json::Value;

use super::ledger::Ledger;
use super::publish::{PLAIN, WHOLE};
use super::summary::Half;

/// One target.
pub struct Target {
    /// What it is about.
    pub what: String,
    /// What is wanted, as people read it.
    pub wanted: String,
    /// What came out; None: not measured in this run.
    pub measured: Option<f64>,
    /// Whether it is reached.
    pub reached: bool,
}

fn target(what: impl Into<String>, measured: Option<f64>, wanted: Wanted, unit: &str) -> Target {
    let (sign, bound, reached) = match wanted {
        Wanted::AtLeast(bound) => ("≥", bound, measured.is_some_and(|m| m >= bound)),
        Wanted::AtMost(bound) => ("≤", bound, measured.is_some_and(|m| m <= bound)),
    };
    Target { what: what.into(), wanted: format!("{sign} {bound} {unit}"), measured, reached }
}

#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

const RATE: &str = "events_per_second";
const MODES: [(&str, f64); 4] =
    [("history-user", 100e3), ("batch-user", 130e3), ("history-delta", 220e3), ("batch-delta", 600e3)];

/// Those of a half, with what this run has measured.
pub fn of(ledger: &Ledger, half: Half) -> Vec<Target> {
    match half {
        Half::Aggregator => aggregator(ledger),
        Half::Api => api(ledger),
    }
}

fn aggregator(ledger: &Ledger) -> Vec<Target> {
    let mut targets = Vec::new();
    for (mode, least) in MODES {
        let drain = format!("drain/{mode}");
        targets.push(target(format!("drain {mode}"), ledger.median(&drain, RATE), Wanted::AtLeast(least), "events/s"));
        let share = share_of_floor(ledger, mode).map(|share| share * 100.0);
        targets.push(target(
            format!("drain {mode}, of the slower of consuming alone and SQL alone"),
            share,
            Wanted::AtLeast(85.0),
            "%",
        ));
        let cpu = ledger.median(&drain, "cpu_seconds_per_million");
        targets.push(target(format!("CPU a million events, like-aggregator, {mode}"), cpu, Wanted::AtMost(1.5), "s"));
        let statements = ledger.median(&drain, "statements_per_10000");
        targets.push(target(format!("SQL statements per 10,000 events, {mode}"), statements, Wanted::AtMost(40.0), ""));
        let memory = ledger.median(&drain, "peak_mib");
        targets.push(target(format!("peak memory of like-aggregator, {mode}"), memory, Wanted::AtMost(64.0), "MiB"));
    }
    for mode in ["history-delta", "batch-delta"] {
        let ratio = ledger.ratio((&format!("drain/{mode}"), RATE), ("one-by-one", RATE));
        targets.push(target(format!("drain {mode} over one UPDATE per event"), ratio, Wanted::AtLeast(50.0), "times"));
    }
    targets.push(target(
        "consuming alone, events of users",
        ledger.median("consume/history-user", RATE),
        Wanted::AtLeast(800e3),
        "events/s",
    ));
    targets
}

fn api(ledger: &Ledger) -> Vec<Target> {
    let mut targets = Vec::new();
    let publish = |load: &str, service: &str, name: &str| {
        let row = ledger.rows("publish").into_iter().find(|row| {
            let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
            let products = row.get("products").and_then(Value::as_u64);
            text("load").contains(load) && text("service") == service && products == Some(1_000)
        });
        row?.get(name)?.as_f64()
    };
    let loads = [
        ("half", "at half of the highest rate"),
        (" 1000 connections", "1,000 connections"),
        (" 256", "256"),
        (" 64", "64"),
    ];
    for (load, shown) in loads {
        targets.push(target(
            format!("CPU a like over a bare route's, the whole route (token from the cache, limits, metrics), {shown}"),
            publish(load, WHOLE, "cpu_ratio"),
            Wanted::AtMost(2.0),
            "times",
        ));
    }
    for load in ["half", "a quarter"] {
        targets.push(target(
            format!("like-api's p99 at {load} of its highest rate"),
            publish(load, PLAIN, "p99_ms"),
            Wanted::AtMost(25.0),
            "ms",
        ));
    }
    let of = |section: &str, key: &str, value: u64, name: &str| {
        let rows = ledger.rows(section).into_iter().filter(|row| row.get(key).and_then(Value::as_u64) == Some(value));
        rows.filter_map(|row| row.get(name)?.as_f64()).reduce(f64::max)
    };
    targets.push(target(
        "freshness at 2,000 likes a second, p99",
        of("freshness", "rate", 2_000, "fresh_p99_ms"),
        Wanted::AtMost(250.0),
        "ms",
    ));
    targets.push(target(
        "memory of like-api under load, 64 connections",
        of("memory/likes", "connections", 64, "api_mib"),
        Wanted::AtMost(40.0),
        "MiB",
    ));
    targets
}

/// The median over the rounds of the drain's rate over the slower of its two floors.
pub fn share_of_floor(ledger: &Ledger, mode: &str) -> Option<f64> {
    let consume = ledger.ratio((&format!("drain/{mode}"), RATE), (&format!("consume/{mode}"), RATE))?;
    let memory = ledger.ratio((&format!("drain/{mode}"), RATE), (&format!("from-memory/{mode}"), RATE))?;
    Some(consume.max(memory))
}
