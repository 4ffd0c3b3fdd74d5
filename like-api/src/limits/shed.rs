//! Refusing what can't be answered in time, before anything is done for it, so that the rest is.
//!
//! Under more load than it can bear a service gets slower and not faster: everything is taken, and
//! everything waits. What a like waits for (processors, the producer's queue, the brokers) shows in
//! one number, the time from its arrival to its answer, and what makes that longer is how many likes
//! are in progress together. So that number has a limit, and the limit follows the time: at a given
//! rate the one is proportional to the other. It shrinks while likes take longer than they should,
//! and grows while they don't and it is what holds likes back. Above it a like is refused before
//! anything is done for it. Only likes are limited: reads that arrive together share their queries and
//! don't make each other slow, and receipts and streams wait by their callers' wish.
//!
//! To refuse a like costs a third to a half of what it costs to take it, nearly all of it in the
//! kernel. Where processors are what is short, refusing at once would spend them on those who ask
//! again at once. So a refusal waits ([`REFUSED_AFTER`]): whoever waits for it asks nothing.
//!
//! Refusals say nothing of what the others wait for: only what was settled counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntGauge};

/// The limit is set anew that often,
const EVERY: Duration = Duration::from_millis(100);
/// if so many were settled meanwhile: one slow like is no overload.
const ENOUGH: u32 = 16;
/// A like that isn't let in is refused after so long, or at once where connections are scarce: it
/// holds one meanwhile.
pub const REFUSED_AFTER: Duration = Duration::from_millis(500);
/// It never falls below: that many keep processors and brokers busy. Where likes take long with so
/// few in progress it is for another reason (a distant broker, a machine that others use), and
/// refusing more of them would only lose them.
const LEAST: usize = 256;
/// It never rises above, which is what the producer's queue takes.
const MOST: usize = 20_000;
/// How much smaller and larger it becomes at once, at most.
const CHANGE: (f64, f64) = (0.5, 1.25);

/// The limit, and what it is made from.
pub struct Shed {
    /// As long as they should take on average; zero: nothing is ever refused.
    target: Duration,
    limit: AtomicUsize,
    in_progress: AtomicUsize,
    seen: Mutex<Seen>,
    refused: IntCounter,
    shown: IntGauge,
}

/// Since the limit was set.
struct Seen {
    since: Instant,
    settled: u32,
    time: Duration,
    /// In progress together.
    most: usize,
    refused: u64,
}

/// One that was let in; no longer in progress when it is dropped.
pub struct InProgress {
    shed: Arc<Shed>,
    since: Instant,
    /// How many there were with it.
    of: usize,
}

impl Shed {
    /// `refused` counts those that are, `shown` is the limit.
    pub fn new(target: Duration, refused: IntCounter, shown: IntGauge) -> Arc<Self> {
        shown.set(if target.is_zero() { 0 } else { MOST as i64 });
        let seen = Mutex::new(Seen::from(Instant::now()));
        Arc::new(Self { target, limit: MOST.into(), in_progress: 0.into(), seen, refused, shown })
    }

    /// Lets one in; None: there are too many.
    pub fn enter(self: &Arc<Self>, now: Instant) -> Option<InProgress> {
        let of = self.in_progress.fetch_add(1, Ordering::Relaxed) + 1;
        let entered = InProgress { shed: Arc::clone(self), since: now, of };
        if of > self.limit.load(Ordering::Relaxed) && !self.target.is_zero() {
            self.refused.inc();
            return None;
        }
        Some(entered)
    }

    fn settled(&self, took: Duration, of: usize, now: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.settled += 1;
        seen.time += took;
        seen.most = seen.most.max(of);
        if seen.settled < ENOUGH || now.saturating_duration_since(seen.since) < EVERY {
            return;
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let refused = self.refused.get();
        let mean = seen.time / seen.settled;
        let change = (self.target.as_secs_f64() / mean.as_secs_f64()).clamp(CHANGE.0, CHANGE.1);
        let next = if change < 1.0 {
            // What was there has made them slow, and not a limit that nobody came near.
            limit.min(seen.most) as f64 * change
        } else if refused > seen.refused {
            limit as f64 * change
        } else {
            limit as f64
        };
        let next = (next as usize).clamp(LEAST, MOST);
        self.limit.store(next, Ordering::Relaxed);
        self.shown.set(next as i64);
        *seen = Seen { refused, ..Seen::from(now) };
    }
}

impl Seen {
    fn from(since: Instant) -> Self {
        Self { since, settled: 0, time: Duration::ZERO, most: 0, refused: 0 }
    }
}

impl InProgress {
    /// It has its answer, which says how long they take.
    pub fn settled(self) {
        let shed = &self.shed;
        if !shed.target.is_zero() {
            let now = Instant::now();
            shed.settled(now.saturating_duration_since(self.since), self.of, now);
        }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.shed.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const TARGET: Duration = Duration::from_millis(100);
    const MILLI: Duration = Duration::from_millis(1);

    fn shed(target: Duration) -> Arc<Shed> {
        let (refused, shown) = (IntCounter::new("r", "r").unwrap(), IntGauge::new("s", "s").unwrap());
        Shed::new(target, refused, shown)
    }

    /// A service of a rate: takes `offered` a millisecond for some seconds, settles at most
    /// `capacity` of them, in their order. Answers the settled, and the longest times of the last
    /// second, all in simulated time.
    fn simulate(shed: &Arc<Shed>, offered: usize, capacity: usize, seconds: u32) -> (usize, Duration) {
        let start = Instant::now();
        let (mut waiting, mut settled, mut longest) = (VecDeque::new(), 0, Duration::ZERO);
        for milli in 0..seconds * 1_000 {
            let now = start + MILLI * milli;
            waiting.extend((0..offered).filter_map(|_| shed.enter(now)));
            for _ in 0..capacity {
                let Some(entered) = waiting.pop_front() else { break };
                let took = now - entered.since;
                shed.settled(took, entered.of, now);
                if milli >= (seconds - 1) * 1_000 {
                    longest = longest.max(took);
                    settled += 1;
                }
            }
        }
        (settled, longest)
    }

    #[test]
    fn three_times_the_load_is_answered_at_the_rate_it_can_bear_and_in_bounded_time() {
        let shed = shed(TARGET);
        assert_eq!(simulate(&shed, 10, 10, 5), (10_000, Duration::ZERO));
        assert_eq!(shed.refused.get(), 0);
        let (settled, longest) = simulate(&shed, 30, 10, 10);
        assert_eq!(settled, 10_000);
        assert!(longest < 2 * TARGET, "{longest:?}");
        // And afterwards nothing is refused.
        let before = shed.refused.get();
        assert_eq!(simulate(&shed, 9, 10, 5), (9_000, Duration::ZERO));
        assert_eq!(shed.refused.get(), before);
        assert_eq!(shed.in_progress.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_it_everything_is_taken_and_waits() {
        let (settled, longest) = simulate(&shed(Duration::ZERO), 30, 10, 10);
        assert_eq!(settled, 10_000);
        assert!(longest > Duration::from_secs(5), "{longest:?}");
    }

    #[test]
    fn after_a_service_that_was_slow_for_another_reason_a_burst_is_taken_soon() {
        let shed = shed(TARGET);
        let start = Instant::now();
        // A broker that was away for some seconds.
        for n in 0..1_000 {
            let entered = shed.enter(start).unwrap();
            shed.settled(Duration::from_secs(3), entered.of, start + MILLI * n);
            // What there is at the time is too much, and not what once was allowed.
            assert!(n < 200 || shed.limit.load(Ordering::Relaxed) <= 500);
        }
        assert_eq!(shed.limit.load(Ordering::Relaxed), LEAST);
        simulate(&shed, 40, 50, 3);
        let before = shed.refused.get();
        simulate(&shed, 40, 50, 1);
        assert_eq!(shed.refused.get(), before);
        // More at once than the least that is always let in.
        let bursts = |from: u32, seconds: u32| {
            let mut waiting = VecDeque::new();
            for milli in from * 1_000..(from + seconds) * 1_000 {
                let now = start + MILLI * milli;
                waiting.extend((0..if milli % 10 == 0 { 400 } else { 0 }).filter_map(|_| shed.enter(now)));
                for entered in waiting.drain(..waiting.len().min(50)) {
                    shed.settled(now - entered.since, entered.of, now);
                }
            }
        };
        bursts(60, 3);
        let before = shed.refused.get();
        bursts(63, 1);
        assert_eq!(shed.refused.get(), before);
    }
}
