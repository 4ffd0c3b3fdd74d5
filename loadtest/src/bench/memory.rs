//! What like-api and like-aggregator hold in memory: new, and under likes for few and for many
//! products.

use std::time::Duration;

use anyhow::Context;

use super::{Figures, Lab, Site, rounded, wrk};
use crate::aggregator::peak_memory_mib;
use crate::api::memory_mib;
use crate::figures;

/// Both services, at 64 and at 1,000 connections, each number of products with new processes.
pub async fn memory(lab: &Lab) -> anyhow::Result<Vec<Figures>> {
    let mut figures = Vec::new();
    for products in [10, 100_000] {
        let site = Site::create(lab, "memory").await?;
        let result = measure(lab, &site, products).await;
        figures.extend(site.remove(result).await?);
    }
    Ok(figures)
}

async fn measure(lab: &Lab, site: &Site<'_>, products: u32) -> anyhow::Result<Vec<Figures>> {
    let duration = Duration::from_secs(if lab.quick { 2 } else { 15 });
    let aggregator = site.aggregator()?;
    let api = site.api().await.context("like-api")?;
    let held = |pid| Ok::<_, anyhow::Error>(rounded(memory_mib(pid).context("/proc")?));
    let (api_idle, aggregator_idle) = (held(api.pid())?, held(aggregator.pid())?);
    let mut figures = Vec::new();
    for connections in [64, 1000] {
        let run = wrk::run(&api, connections, products, None, duration).await?;
        figures.push(figures! {
            "part": "memory-api",
            "load": format!("closed loop, {connections} connections, {products} products"),
            "connections": connections,
            "products": products,
            "per_second": rounded(run.per_second),
            "api_idle_mib": api_idle,
            "api_mib": rounded(run.memory_mib),
            "api_peak_mib": rounded(run.peak_memory_mib),
            "aggregator_idle_mib": aggregator_idle,
            "aggregator_mib": held(aggregator.pid())?,
            "aggregator_peak_mib": rounded(peak_memory_mib(aggregator.pid()).context("/proc")?),
            "failed": run.failed,
            "seconds": duration.as_secs(),
        });
    }
    Ok(figures)
}
