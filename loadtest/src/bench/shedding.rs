//! More likes than can be borne, in an open model: what becomes of them with load shedding, and
//! without. First how many there can be: as fast as the same client can send them, shedding off.
//! Then once, twice and three times as many are offered. The client, the broker and the service
//! share the machine's cores, so all that is offered costs the service processor time that its
//! likes would have had, in the client too; on a machine of its own it would keep more of its rate.

use std::time::Duration;

use anyhow::Context;

use super::sender::{self, Plan, Sent, user_header};
use super::{Figures, Lab, Site, rounded};
use crate::aggregator::cpu;
use crate::api::Api;
use crate::figures;

const PRODUCTS: u64 = 1_000;
/// In the search: the most likes at once that a service does well with.
const SEARCH_CONNECTIONS: u32 = 256;
/// And above: so many that it isn't they who bound what waits in the service.
const CONNECTIONS: u32 = 2_000;
/// More than can be sent: nobody waits for the time at which a like is due.
const UNBOUNDED: f64 = 1e6;

const HEADER: (&str, &str) = ("AUTH_MODE", "trusted-header");

/// The rate that can be borne, and multiples of it.
pub async fn shedding(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let site = Site::create(lab, "shedding").await?;
    let result = measure(lab, &site).await;
    site.remove(result).await
}

async fn measure(lab: &Lab, site: &Site<'_>) -> anyhow::Result<Vec<Figures>> {
    let seconds = if lab.quick { 4 } else { 15 };
    let bearable = {
        let api = site.api_with("shedding-off", &[HEADER, ("SHED_ABOVE", "0s")]).await.context("like-api")?;
        // As many as take some seconds on a fast machine; the first half finds nothing warm.
        let likes = |number| Duration::from_secs_f64(f64::from(number) / UNBOUNDED);
        let number = if lab.quick { 30_000 } else { 150_000 };
        send(&api, UNBOUNDED, likes(number / 2), SEARCH_CONNECTIONS).await?;
        send(&api, UNBOUNDED, likes(number), SEARCH_CONNECTIONS).await?.per_second
    };
    let mut figures = Vec::new();
    for (shedding, settings) in [("on", &[HEADER][..]), ("off", &[HEADER, ("SHED_ABOVE", "0s")])] {
        for times in 1..=3_u32 {
            // New each time: what one leaves behind is not the next one's.
            let api = site.api_with(&format!("shedding-{shedding}"), settings).await.context("like-api")?;
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
                "sent_per_second": rounded((sent.times_ms.len() as f64 + sent.failed as f64) / took),
                "accepted_per_second": rounded(sent.per_second),
                "accepted_percent_of_bearable": rounded(sent.per_second / bearable * 100.0),
                "shed_per_second": rounded(sent.shed as f64 / took),
                "accepted_p50_ms": rounded(sent.percentile(50.0)),
                "accepted_p99_ms": rounded(sent.percentile(99.0)),
                "accepted_max_ms": rounded(sent.percentile(100.0)),
                "api_cpu_us_a_request": rounded((used()? - before) * 1e6 / (took * rate)),
                "other_failures": sent.failed - sent.shed,
                "connections": CONNECTIONS,
                "seconds": seconds,
            });
        }
    }
    Ok(figures)
}

async fn send(api: &Api, rate: f64, duration: Duration, connections: u32) -> anyhow::Result<Sent> {
    let plan = Plan { addr: api.addr, rate, duration, connections };
    let like = |number: u64| (format!("p{}", number * 7_919 % PRODUCTS), user_header(&format!("u{number}")));
    sender::send(plan, like, |_| ()).await
}
