//! More likes than the service can take, in an open model, with load shedding and without. like-api
//! and the broker have half of the machine's processors, and the client has the other half. The
//! highest rate is measured first; then once, twice and three times as many likes are offered. A
//! like for which no connection is free isn't sent, as by a proxy that then responds 503 itself.

use std::time::Duration;

use anyhow::ensure;
use like_testkit::TestService;

use super::sender::{Load, Plan, Sent, product, send, user_header};
use super::{Bench, Row, address, median, rounded, seconds, system};
use crate::row;
use crate::usage::{Halves, cpu_seconds};

const PRODUCTS: u64 = 1_000;
/// The number of connections with the highest rate.
const SEARCH_CONNECTIONS: u32 = 256;
const CONNECTIONS: u32 = 8_000;
/// Likes that are due at the same time are sent one after the other: allow for that.
const LATEST: Duration = Duration::from_millis(20);
const OFF: (&str, &str) = ("SHED_ABOVE", "0s");
/// Twice the client's connections, all from one address, so that these aren't the limit.
const ROOM: [(&str, &str); 2] = [("MAX_CONNECTIONS", "16000"), ("ADDRESS_SHARE", "100")];

/// A row for each rate, with and without shedding.
pub async fn shedding(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let system = system().await;
    let mut halves = Halves::new()?;
    halves.measure(bench.kafka_pid)?;
    let duration = seconds(bench, 4, 15);
    let highest = {
        let api = system.api(&[OFF]).await;
        halves.measure(api.process.id())?;
        let search = async |likes| {
            let load = Load::Closed { likes, duration: Duration::MAX };
            anyhow::Ok(likes_of(&api, load, SEARCH_CONNECTIONS).await?.per_second)
        };
        // The broker's code gets faster in its first minute.
        search(if bench.quick { 100_000 } else { 500_000 }).await?;
        median([search(50_000).await?, search(50_000).await?, search(50_000).await?])
    };
    let mut rows = Vec::new();
    for times in 1..=3_u32 {
        for (shedding, settings) in [("on", &ROOM[..]), ("off", &[ROOM[0], ROOM[1], OFF])] {
            // A new process for each, without a queue of the last one.
            let api = system.api(settings).await;
            let pid = api.process.id();
            halves.measure(pid)?;
            let open = |rate, duration| Load::Open { rate, duration, latest: LATEST };
            likes_of(&api, open(highest / 2.0, Duration::from_secs(1)), SEARCH_CONNECTIONS).await?;
            let (before, rate) = (cpu_seconds(pid)?, highest * f64::from(times));
            let sent = likes_of(&api, open(rate, duration), CONNECTIONS).await?;
            ensure!(sent.failed == sent.shed, "{} likes failed for another reason", sent.failed - sent.shed);
            let took = sent.times_ms.len() as f64 / sent.per_second;
            rows.push(row! {
                "load": format!("{times}x"),
                "shedding": shedding,
                "offered_per_second": rounded(rate),
                "accepted_per_second": rounded(sent.per_second),
                "shed_per_second": rounded(sent.shed as f64 / took),
                "unsent_per_second": rounded(sent.unsent as f64 / took),
                "accepted_p50_ms": rounded(sent.percentile(50.0)),
                "accepted_p99_ms": rounded(sent.percentile(99.0)),
                "api_cpu_percent": rounded((cpu_seconds(pid)? - before) / took * 100.0),
            });
        }
    }
    Ok(rows)
}

async fn likes_of(api: &TestService, load: Load, connections: u32) -> anyhow::Result<Sent> {
    let like = |number: u64| (product(number, PRODUCTS), user_header(&format!("u{number}")));
    send(Plan { addr: address(api)?, load, connections }, like, |_| ()).await
}
