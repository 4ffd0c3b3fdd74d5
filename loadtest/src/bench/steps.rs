//! The steps of a run, in their order, and what each does.

use anyhow::Context;

use super::logs::{LogKey, Logs};
use super::{Figures, Lab, draining, floors, freshness, memory, prefill, publish, shedding, streams, tokens};
use crate::backlog::Mode;
use crate::drain::{Clock, Plan};

/// One measurement.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name in the ledger: section/what/round.
    pub name: String,
    /// The log that it reads, if any.
    pub log: Option<LogKey>,
    /// What is measured.
    pub what: What,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// A drain.
    Drain(Plan),
    /// A drain into a database that holds so many likes per product already.
    DrainInto(Mode, i64),
    /// Consuming alone.
    Consume,
    /// The same SQL from memory.
    FromMemory(Mode),
    /// One UPDATE per event, so many of them.
    OneByOne(usize),
    /// like-aggregator with nothing to do.
    Idle,
    /// like-api beside a bare route.
    Publish,
    /// More likes than can be borne.
    Shedding,
    /// From the acknowledgement to the count.
    Freshness,
    /// Both services' memory under likes.
    Memory,
    /// Verifying tokens, and finding them verified.
    Tokens,
    /// Open streams of live counts.
    Streams,
}

/// All steps. A quick run has one round and smaller logs; it shows that everything works, and
/// roughly what comes out.
pub fn all(quick: bool) -> Vec<Step> {
    let events = if quick { 300_000 } else { 1_000_000 };
    let rounds = if quick { 1 } else { 3 };
    let mut steps = Vec::new();
    let mut add = |name: String, log: Option<LogKey>, what: What| steps.push(Step { name, log, what });
    let log = |mode: Mode| Some(LogKey::of(events, mode.of_users()));

    for round in 1..=rounds {
        for mode in Mode::ALL {
            let name = mode.name();
            add(format!("drain/{name}/{round}"), log(mode), What::Drain(Plan::of(mode)));
            add(format!("consume/{name}/{round}"), log(mode), What::Consume);
            add(format!("from-memory/{name}/{round}"), log(mode), What::FromMemory(mode));
        }
        let events = if quick { 2_000 } else { 20_000 };
        add(format!("one-by-one/{round}"), log(Mode::BatchDelta), What::OneByOne(events));
    }
    let rounds = if quick { 1 } else { 2 };
    for round in 1..=rounds {
        for mode in [Mode::HistoryUser, Mode::HistoryDelta] {
            for workers in [1, 2] {
                let plan = Plan { workers, clock: Clock::Held, ..Plan::of(mode) };
                add(format!("workers/{}/{workers}/{round}", mode.name()), log(mode), What::Drain(plan));
            }
        }
        for mode in [Mode::HistoryUser, Mode::HistoryDelta] {
            let key = LogKey { hot_percent: 90, ..LogKey::of(events, mode.of_users()) };
            add(format!("hot/{}/{round}", mode.name()), Some(key), What::Drain(Plan::of(mode)));
        }
    }
    let sizes: &[u64] = if quick { &[10_000, 300_000] } else { &[10_000, 100_000, 1_000_000, 10_000_000] };
    let held = Plan { clock: Clock::Held, ..Plan::of(Mode::HistoryUser) };
    for &size in sizes {
        add(format!("growth/events/{size}"), Some(LogKey::of(size, true)), What::Drain(held));
    }
    let middle = LogKey::of(300_000, true);
    for &products in if quick { &[10, 100_000][..] } else { &[10, 1_000, 100_000, 1_000_000] } {
        add(format!("growth/products/{products}"), Some(LogKey { products, ..middle }), What::Drain(held));
    }
    for &partitions in if quick { &[1, 64][..] } else { &[1, 8, 32, 64] } {
        add(format!("growth/partitions/{partitions}"), Some(LogKey { partitions, ..middle }), What::Drain(held));
    }
    add("memory/idle".to_owned(), Some(LogKey::of(10_000, true)), What::Idle);
    add("memory/likes".to_owned(), None, What::Memory);
    add("freshness".to_owned(), None, What::Freshness);
    add("publish".to_owned(), None, What::Publish);
    add("tokens".to_owned(), None, What::Tokens);
    add("shedding".to_owned(), None, What::Shedding);
    add("streams".to_owned(), None, What::Streams);
    // Last: a database of several gigabytes.
    let base = if quick { 300 } else { 10_000 };
    for round in 1..=rounds {
        for mode in [Mode::HistoryUser, Mode::BatchUser] {
            add(format!("prefilled/{}/{round}", mode.name()), log(mode), What::DrainInto(mode, base));
        }
    }
    steps
}

/// What outlives a step.
pub struct Bench {
    /// The servers.
    pub lab: Lab,
    /// The filled topics.
    pub logs: Logs,
    /// The database that drains into a filled one start from.
    pub template: Option<String>,
}

impl Bench {
    /// Measures.
    pub async fn take(&mut self, step: &Step) -> anyhow::Result<Vec<Figures>> {
        match step.what {
            What::Publish => return publish::publish(&self.lab).await,
            What::Shedding => return shedding::shedding(&self.lab).await,
            What::Freshness => return freshness::freshness(&self.lab).await,
            What::Memory => return memory::memory(&self.lab).await,
            What::Tokens => return tokens::tokens(self.lab.quick).await,
            What::Streams => return streams::streams(&self.lab).await,
            _ => {}
        }
        let place = &self.lab.place();
        let backlog = self.logs.get(step.log.context("a step of the other kinds has a log")?).await?;
        match step.what {
            What::Drain(plan) => draining::drain(place, backlog, plan, None).await,
            What::DrainInto(mode, base) => {
                if self.template.is_none() {
                    println!("  filling a database with {} likes", base * i64::from(backlog.shape.products));
                    self.template = Some(prefill::template(place, backlog, base).await?);
                }
                let plan = Plan { base, ..Plan::of(mode) };
                draining::drain(place, backlog, plan, self.template.as_deref()).await
            }
            What::Consume => floors::consume(place, backlog),
            What::FromMemory(mode) => floors::from_memory(place, backlog, mode).await,
            What::OneByOne(events) => floors::one_by_one(place, backlog, events).await,
            What::Idle => draining::idle(place, backlog).await,
            What::Publish | What::Shedding | What::Freshness | What::Memory | What::Tokens | What::Streams => {
                unreachable!("answered above")
            }
        }
    }
}
