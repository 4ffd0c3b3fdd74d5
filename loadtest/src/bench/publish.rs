//! What a like costs like-api, against the least that an HTTP service can do: both loaded in turns
//! within one run, so that what the machine does meanwhile hits both. Client, services and broker
//! share its cores: where a service is at its limit, it is the machine's, and figures of
//! throughput say what is left to a service beside the rest. Processor time is the service's own.

use std::time::Duration;

use anyhow::Context;

use super::sender::{self, Plan};
use super::wrk::{self, Run};
use super::{Figures, Lab, Site, median, rounded};
use crate::aggregator::cpu;
use crate::api::Api;
use crate::figures;

const CONNECTIONS: [u32; 3] = [64, 256, 1000];
const PRODUCTS: u32 = 1_000;
/// Open at a fixed rate: more than are ever in use at half of what the service can do.
const OPEN_CONNECTIONS: u32 = 256;

/// Closed loop at three numbers of connections and with one hot product, then a fixed rate of half
/// of the most that was reached.
pub async fn publish(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let site = Site::create(lab, "publish").await?;
    let result = measure(lab, &site).await;
    site.remove(result).await
}

async fn measure(lab: &Lab, site: &Site<'_>) -> anyhow::Result<Vec<Figures>> {
    let (rounds, seconds) = if lab.quick { (2, 2) } else { (3, 5) };
    let duration = Duration::from_secs(seconds);
    let api = site.api().await.context("like-api")?;
    let bare = Api::start_bare(&lab.programs.join("bare_route")).await.context("bare_route")?;
    // The first requests find nothing in any cache.
    for target in [&bare, &api] {
        wrk::run(target, CONNECTIONS[0], PRODUCTS, Duration::from_secs(1)).await?;
    }
    let mut figures = Vec::new();
    let mut most: f64 = 0.0;
    let shapes = CONNECTIONS.iter().map(|connections| (*connections, PRODUCTS)).chain([(CONNECTIONS[0], 1)]);
    for (connections, products) in shapes {
        let (mut of_api, mut of_bare) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let mut turn = [(&api, &mut of_api), (&bare, &mut of_bare)];
            if round % 2 == 1 {
                turn.reverse();
            }
            for (target, runs) in turn {
                runs.push(wrk::run(target, connections, products, duration).await?);
            }
        }
        let of = |runs: &[Run], what: fn(&Run) -> f64| rounded(median(runs.iter().map(what)));
        most = most.max(of(&of_api, |run| run.per_second));
        figures.push(figures! {
            "part": "publish",
            "load": format!("closed loop, {connections} connections, {products} products"),
            "connections": connections,
            "products": products,
            "api_per_second": of(&of_api, |run| run.per_second),
            "bare_per_second": of(&of_bare, |run| run.per_second),
            "api_cpu_us": of(&of_api, |run| run.cpu_us),
            "bare_cpu_us": of(&of_bare, |run| run.cpu_us),
            "cpu_ratio": ratio(&of_api, &of_bare),
            "api_p50_ms": of(&of_api, |run| run.p50_ms),
            "api_p99_ms": of(&of_api, |run| run.p99_ms),
            "bare_p50_ms": of(&of_bare, |run| run.p50_ms),
            "bare_p99_ms": of(&of_bare, |run| run.p99_ms),
            "api_rss_mib": of(&of_api, |run| run.memory_mib),
            "bare_rss_mib": of(&of_bare, |run| run.memory_mib),
            "failed": of_api.iter().map(|run| run.failed).sum::<u64>(),
            "runs": rounds,
            "seconds": seconds,
        });
    }
    figures.push(at_rate(&api, &bare, most / 2.0, Duration::from_secs(if lab.quick { 3 } else { 10 })).await?);
    Ok(figures)
}

/// Of each round, so that both have seen the same machine; then the median.
fn ratio(api: &[Run], bare: &[Run]) -> f64 {
    rounded(median(api.iter().zip(bare).map(|(api, bare)| api.cpu_us / bare.cpu_us)))
}

/// Both at the same rate, in an open model: a service that isn't at its limit sleeps and wakes,
/// which is what most of its time goes into then.
async fn at_rate(api: &Api, bare: &Api, rate: f64, duration: Duration) -> anyhow::Result<Figures> {
    let mut of = Vec::new();
    for target in [api, bare] {
        let plan = Plan { addr: target.addr, rate, duration, connections: OPEN_CONNECTIONS };
        let before = cpu(target.pid()).context("/proc")?;
        // A multiplier for products, so that neighbours in time aren't neighbours in the log.
        let like = |number: u64| (format!("p{}", number * 7_919 % u64::from(PRODUCTS)), format!("u{number}"));
        let sent = sender::send(plan, like, |_| ()).await?;
        let used = cpu(target.pid()).context("/proc")? - before;
        let us = (used.user + used.system) * 1e6 / sent.times_ms.len().max(1) as f64;
        of.push((sent, rounded(us)));
    }
    let [(api, api_us), (bare, bare_us)] = of.as_slice() else { unreachable!("two") };
    Ok(figures! {
        "part": "publish",
        "load": "open model, half of the highest closed-loop rate",
        "connections": OPEN_CONNECTIONS,
        "products": PRODUCTS,
        "rate": rate.round(),
        "api_per_second": rounded(api.per_second),
        "bare_per_second": rounded(bare.per_second),
        "api_cpu_us": api_us,
        "bare_cpu_us": bare_us,
        "cpu_ratio": rounded(api_us / bare_us),
        "api_p50_ms": rounded(api.percentile(50.0)),
        "api_p99_ms": rounded(api.percentile(99.0)),
        "bare_p50_ms": rounded(bare.percentile(50.0)),
        "bare_p99_ms": rounded(bare.percentile(99.0)),
        "failed": api.failed,
        "seconds": duration.as_secs(),
    })
}
