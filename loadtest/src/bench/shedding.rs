//! More likes than can be borne, in an open model: what becomes of them with load shedding, and
//! without. like-api and the broker have half of the machine's processors to themselves, and the
//! client has the other half: what is offered takes nothing from what is measured.
//! First how many likes there can be: as fast as the same client can send them. Then once, twice
//! and three times as many are offered, with and without shedding by turns.
//!
//! A like's time counts from when it was due. One that finds no free connection isn't sent, as by a
//! proxy that has so many and answers 503 itself.

use std::time::Duration;

use anyhow::Context;

use super::sender::{self, Plan, Sent, user_header};
use super::{Figures, Lab, Site, median, rounded};
use crate::aggregator::cpu;
use crate::api::Api;
use crate::cores::Halves;
use crate::figures;

const PRODUCTS: u64 = 1_000;
/// In the search: the most likes at once that a service does well with.
const SEARCH_CONNECTIONS: u32 = 256;
/// And above.
const CONNECTIONS: u32 = 8_000;
/// The client's own grain: what is due in the same moment is sent one after the other.
const LATEST: Duration = Duration::from_millis(20);
/// More than can be sent: nobody waits for the time at which a like is due.
const UNBOUNDED: f64 = 1e6;

const HEADER: (&str, &str) = ("AUTH_MODE", "trusted-header");
const OFF: (&str, &str) = ("SHED_ABOVE", "0s");
/// Twice what the client has: connections are not what is short.
const ROOM: (&str, &str) = ("MAX_CONNECTIONS", "16000");

/// The rate that can be borne, and multiples of it.
pub async fn shedding(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let site = Site::create(lab, "shedding").await?;
    let result = measure(lab, &site).await;
    site.remove(result).await
}

async fn measure(lab: &Lab, site: &Site<'_>) -> anyhow::Result<Vec<Figures>> {
    let seconds = if lab.quick { 4 } else { 15 };
    let mut halves = Halves::new()?;
    halves.load()?;
    if let Some(kafka) = lab.kafka_pid {
        halves.measured(kafka)?;
    }
    let mut start = async |name: &str, settings: &[(&str, &str)]| {
        let api = site.api_with(name, settings).await.context("like-api")?;
        halves.measured(api.pid())?;
        anyhow::Ok(api)
    };
    let bearable = {
        let api = start("shedding-search", &[HEADER, OFF]).await?;
        let likes = |number| Duration::from_secs_f64(f64::from(number) / UNBOUNDED);
        // The broker's code gets faster in its first minute.
        send(&api, UNBOUNDED, likes(if lab.quick { 100_000 } else { 500_000 }), SEARCH_CONNECTIONS).await?;
        let mut rates = Vec::new();
        for _ in 0..3 {
            rates.push(send(&api, UNBOUNDED, likes(50_000), SEARCH_CONNECTIONS).await?.per_second);
        }
        median(rates)
    };
    let mut figures = Vec::new();
    for times in 1..=3_u32 {
        for (shedding, settings) in [("on", &[HEADER, ROOM][..]), ("off", &[HEADER, ROOM, OFF])] {
            // New each time: what one leaves behind is not the next one's.
            let api = start(&format!("shedding-{shedding}"), settings).await?;
            send(&api, bearable / 2.0, Duration::from_secs(1), SEARCH_CONNECTIONS).await?;
            let used = || cpu(api.pid()).map(|cpu| cpu.user + cpu.system).context("/proc");
            let before = used()?;
            let rate = bearable * f64::from(times);
            let sent = send(&api, rate, Duration::from_secs(seconds), CONNECTIONS).await?;
            let took = sent.times_ms.len() as f64 / sent.per_second;
            figures.push(figures! {
                "part": "shedding",
                "load": format!("{times}x"),
                "shedding": shedding,
                "offered_per_second": rounded(rate),
                "unsent_per_second": rounded(sent.unsent as f64 / took),
                "accepted_per_second": rounded(sent.per_second),
                "accepted_percent_of_bearable": rounded(sent.per_second / bearable * 100.0),
                "shed_per_second": rounded(sent.shed as f64 / took),
                "accepted_p50_ms": rounded(sent.percentile(50.0)),
                "accepted_p99_ms": rounded(sent.percentile(99.0)),
                "accepted_max_ms": rounded(sent.percentile(100.0)),
                "api_cpu_percent": rounded((used()? - before) / took * 100.0),
                "other_failures": sent.failed - sent.shed,
                "connections": CONNECTIONS,
                "seconds": seconds,
            });
        }
    }
    Ok(figures)
}

async fn send(api: &Api, rate: f64, duration: Duration, connections: u32) -> anyhow::Result<Sent> {
    let latest = (rate < UNBOUNDED).then_some(LATEST);
    let plan = Plan { addr: api.addr, rate, duration, connections, latest };
    let like = |number: u64| (format!("p{}", number * 7_919 % PRODUCTS), user_header(&format!("u{number}")));
    sender::send(plan, like, |_| ()).await
}
