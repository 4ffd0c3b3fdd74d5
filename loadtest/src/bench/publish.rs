//! What a like costs like-api, against the least that an HTTP service can do: all loaded in turns
//! within one run, so that what the machine does meanwhile hits all. Client, services and broker
//! share its cores: where a service is at its limit, it is the machine's, and figures of
//! throughput say what is left to a service beside the rest. Processor time is the service's own.

use std::time::Duration;

use anyhow::Context;

use super::sender::{self, Plan, Sent, user_header};
use super::users::Users;
use super::wrk::{self, Run};
use super::{Figures, Lab, Site, median, rounded};
use crate::aggregator::cpu;
use crate::api::Api;
use crate::figures;

const CONNECTIONS: [u32; 3] = [64, 256, 1000];
const PRODUCTS: u32 = 1_000;
/// Open at a fixed rate: more than are ever in use at half of what the service can do.
const OPEN_CONNECTIONS: u32 = 1_000;
/// All of their tokens are in the cache after the first second.
const USERS: u32 = 2_000;

const HALF: &str = "open model, half of the highest closed-loop rate";
const QUARTER: &str = "open model, a quarter of it";

/// One of those that are compared.
struct Subject<'a> {
    name: &'static str,
    service: Api,
    /// Where users are known by their tokens.
    tokens: Option<&'a Users>,
}

/// Closed loop at three numbers of connections and with one hot product, then fixed rates of
/// half and a quarter of the most that was reached.
pub async fn publish(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let site = Site::create(lab, "publish").await?;
    let result = measure(lab, &site).await;
    site.remove(result).await
}

async fn measure(lab: &Lab, site: &Site<'_>) -> anyhow::Result<Vec<Figures>> {
    let (rounds, seconds) = if lab.quick { (2, 2) } else { (3, 5) };
    let duration = Duration::from_secs(seconds);
    let tokens = Users::issue(USERS, &lab.out.join("bench-users.txt"))?;
    // As high as no user comes, and looked at for each like.
    let limited = [("RATE_LIMIT_USER", "100000")];
    let whole = [&tokens.settings()[..], &limited].concat();
    let logged = [&whole[..], &[("RUST_LOG", "info,like_api::access=debug"), ("LOG_FORMAT", "json")]].concat();
    let plain = [("AUTH_MODE", "trusted-header"), ("RATE_LIMIT_USER", "0"), ("SHED_ABOVE", "0s")];
    let subject = async |name, settings: &[(&str, &str)], tokens| {
        let service = site.api_with(name, settings).await.with_context(|| format!("like-api ({name})"))?;
        anyhow::Ok(Subject { name, service, tokens })
    };
    let bare = Api::start_bare(&lab.bare_route).await.context("bare_route")?;
    let subjects = [
        Subject { name: BARE, service: bare, tokens: None },
        subject(PLAIN, &plain, None).await?,
        subject(WHOLE, &whole, Some(&tokens)).await?,
        subject(LOGGED, &logged, Some(&tokens)).await?,
    ];
    // The first requests find nothing in any cache.
    for subject in &subjects {
        subject.run(CONNECTIONS[0], PRODUCTS, Duration::from_secs(1)).await?;
    }
    let mut figures = Vec::new();
    let mut most: f64 = 0.0;
    let shapes = CONNECTIONS.iter().map(|connections| (*connections, PRODUCTS)).chain([(CONNECTIONS[0], 1)]);
    for (connections, products) in shapes {
        let mut runs: [Vec<Run>; 4] = Default::default();
        for round in 0..rounds {
            for turn in 0..subjects.len() {
                // Another one is first in each round.
                let number = (turn + round) % subjects.len();
                runs[number].push(subjects[number].run(connections, products, duration).await?);
            }
        }
        for (subject, of_it) in subjects.iter().zip(&runs) {
            let of = |what: fn(&Run) -> f64| rounded(median(of_it.iter().map(what)));
            if subject.name == PLAIN {
                most = most.max(of(|run| run.per_second));
            }
            figures.push(figures! {
                "part": "publish",
                "load": format!("closed loop, {connections} connections, {products} products"),
                "service": subject.name,
                "connections": connections,
                "products": products,
                "per_second": of(|run| run.per_second),
                "cpu_us": of(|run| run.cpu_us),
                "cpu_ratio": ratio(of_it, &runs[0]),
                "p50_ms": of(|run| run.p50_ms),
                "p99_ms": of(|run| run.p99_ms),
                "rss_mib": of(|run| run.memory_mib),
                "failed": of_it.iter().map(|run| run.failed).sum::<u64>(),
                "runs": rounds,
                "seconds": seconds,
            });
        }
    }
    for (part, load) in [(0.5, HALF), (0.25, QUARTER)] {
        figures.extend(at_rate(&subjects, load, most * part, rounds, duration).await?);
    }
    Ok(figures)
}

/// The route that does nothing.
pub const BARE: &str = "bare axum route";
/// The user from a header, no limits.
pub const PLAIN: &str = "like-api, header, no limits";
/// As a site has it: the user from a token that was verified before, limits, metrics.
pub const WHOLE: &str = "like-api, token, limits";
/// And a line in the log for each request.
pub const LOGGED: &str = "the same, each request logged";

impl Subject<'_> {
    async fn run(&self, connections: u32, products: u32, duration: Duration) -> anyhow::Result<Run> {
        let tokens = self.tokens.map(Users::file);
        wrk::run(&self.service, connections, products, tokens, duration).await
    }

    /// In an open model. Answers the processor time of a like too, in microseconds.
    async fn run_at(&self, rate: f64, duration: Duration) -> anyhow::Result<(f64, Sent)> {
        let pid = self.service.pid();
        let plan = Plan { addr: self.service.addr, rate, duration, connections: OPEN_CONNECTIONS, latest: None };
        let tokens = self.tokens.cloned();
        let like = move |number: u64| {
            let headers = tokens.as_ref().map_or_else(|| user_header(&format!("u{number}")), |t| t.header(number));
            // A multiplier for products, so that neighbours in time aren't neighbours in the log.
            (format!("p{}", number * 7_919 % u64::from(PRODUCTS)), headers)
        };
        let before = cpu(pid).context("/proc")?;
        let sent = sender::send(plan, like, |_| ()).await?;
        let used = cpu(pid).context("/proc")? - before;
        let us = (used.user + used.system) * 1e6 / sent.times_ms.len().max(1) as f64;
        Ok((us, sent))
    }
}

/// Of each round, so that both have seen the same machine; then the median.
fn ratio(runs: &[Run], bare: &[Run]) -> f64 {
    rounded(median(runs.iter().zip(bare).map(|(run, bare)| run.cpu_us / bare.cpu_us)))
}

/// All at the same rate, in an open model: a service that isn't at its limit sleeps and wakes,
/// which is what most of its time goes into then.
async fn at_rate(
    subjects: &[Subject<'_>],
    load: &str,
    rate: f64,
    rounds: usize,
    duration: Duration,
) -> anyhow::Result<Vec<Figures>> {
    let mut runs: [Vec<(f64, Sent)>; 4] = Default::default();
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            let number = (turn + round) % subjects.len();
            runs[number].push(subjects[number].run_at(rate, duration).await?);
        }
    }
    let figures = |subject: &Subject<'_>, of_it: &[(f64, Sent)]| {
        let of = |what: fn(&(f64, Sent)) -> f64| rounded(median(of_it.iter().map(what)));
        let ratios = of_it.iter().zip(&runs[0]).map(|((us, _), (bare_us, _))| us / bare_us);
        figures! {
            "part": "publish",
            "load": load,
            "service": subject.name,
            "connections": OPEN_CONNECTIONS,
            "products": PRODUCTS,
            "rate": rate.round(),
            "per_second": of(|(_, sent)| sent.per_second),
            "cpu_us": of(|(us, _)| *us),
            "cpu_ratio": rounded(median(ratios)),
            "p50_ms": of(|(_, sent)| sent.percentile(50.0)),
            "p99_ms": of(|(_, sent)| sent.percentile(99.0)),
            "failed": of_it.iter().map(|(_, sent)| sent.failed).sum::<u64>(),
            "runs": rounds,
            "seconds": duration.as_secs(),
        }
    };
    Ok(subjects.iter().zip(&runs).map(|(subject, of_it)| figures(subject, of_it)).collect())
}
