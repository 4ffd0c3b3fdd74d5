//! Load shedding: limits the likes in progress, so that admitted likes are answered in time.
//!
//! If an overloaded service accepts everything, everything waits. All that a like waits for (processors,
//! the producer's queue, the brokers) shows in its latency, which at a given rate is proportional to
//! the likes in progress. So the likes in progress are limited, and the limit follows the latency: it
//! shrinks while likes take longer than the target, and grows while they don't and likes are being refused.
//! Above it a like is refused before any work is done for it. Only likes are limited: concurrent reads share their queries, and receipts and streams are meant to wait.
//!
//! A refusal costs a third to a half of an accepted like, nearly all of it in the kernel. If processors
//! are scarce, refusing at once would spend them on clients that retry at once. So a refusal is
//! delayed ([`REFUSED_AFTER`]): a client that waits sends nothing.
//!
//! Refusals say nothing about the latency of admitted likes: only settled likes count.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntGauge};

/// Shortest interval between adjustments of the limit.
const EVERY: Duration = Duration::from_millis(100);
/// Fewest settled likes for an adjustment: one slow like is no overload.
const ENOUGH: u32 = 16;
/// Delay of a refusal. Without delay while connections are scarce, since a refused like holds one.
pub const REFUSED_AFTER: Duration = Duration::from_millis(500);
/// Smallest limit: so many likes keep processors and brokers busy. If likes are slow with so few in
/// progress, the cause is another (a distant broker, a shared machine), and refusing more doesn't help.
const LEAST: usize = 256;
/// Largest limit: the size of the producer's queue.
const MOST: usize = 20_000;
/// Smallest and largest factor of one adjustment.
const CHANGE: (f64, f64) = (0.5, 1.25);

pub struct Shed {
    /// Target of the mean latency; zero: no limit.
    target: Duration,
    limit: AtomicUsize,
    in_progress: AtomicUsize,
    seen: Mutex<Seen>,
    refused: IntCounter,
    shown: IntGauge,
}

/// Observations since the last adjustment.
struct Seen {
    since: Instant,
    settled: u32,
    time: Duration,
    /// Most likes in progress.
    most: usize,
    refused: u64,
}

/// Admitted likes of one request, in progress until it is dropped.
pub struct LikesInProgress {
    shed: Arc<Shed>,
    since: Instant,
    number: usize,
    /// Likes in progress when they were admitted, themselves included.
    of: usize,
}

impl Shed {
    /// Creates a limit. `refused` counts refusals, `shown` shows the limit.
    pub fn new(target: Duration, refused: IntCounter, shown: IntGauge) -> Arc<Self> {
        shown.set(if target.is_zero() { 0 } else { MOST as i64 });
        let seen = Mutex::new(Seen::from(Instant::now()));
        Arc::new(Self { target, limit: MOST.into(), in_progress: 0.into(), seen, refused, shown })
    }

    /// Admits so many likes, or none of them: too many are in progress.
    pub fn enter(self: &Arc<Self>, number: usize, now: Instant) -> Option<LikesInProgress> {
        let of = self.in_progress.fetch_add(number, Ordering::Relaxed) + number;
        let entered = LikesInProgress { shed: Arc::clone(self), since: now, number, of };
        if of > self.limit.load(Ordering::Relaxed) && !self.target.is_zero() {
            self.refused.inc_by(number as u64);
            return None;
        }
        Some(entered)
    }

    fn settled(&self, took: Duration, likes: &LikesInProgress, now: Instant) {
        let of = likes.of;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.settled += likes.number as u32;
        seen.time += took * likes.number as u32;
        seen.most = seen.most.max(of);
        if seen.settled < ENOUGH || now.saturating_duration_since(seen.since) < EVERY {
            return;
        }
        let limit = self.limit.load(Ordering::Relaxed);
        let refused = self.refused.get();
        let mean = seen.time / seen.settled;
        let change = (self.target.as_secs_f64() / mean.as_secs_f64()).clamp(CHANGE.0, CHANGE.1);
        let next = if change < 1.0 {
            // The likes in progress made them slow, not a limit that was never reached.
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

impl LikesInProgress {
    /// Records the latency of answered likes.
    pub fn settled(self) {
        let shed = &self.shed;
        if !shed.target.is_zero() {
            let now = Instant::now();
            shed.settled(now.saturating_duration_since(self.since), &self, now);
        }
    }
}

impl Drop for LikesInProgress {
    fn drop(&mut self) {
        self.shed.in_progress.fetch_sub(self.number, Ordering::Relaxed);
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

    /// Simulates a service that is offered `offered` likes per millisecond and settles at most `capacity`
    /// of them, in order. Returns the number settled and the longest latency of the last second.
    fn simulate(shed: &Arc<Shed>, offered: usize, capacity: usize, seconds: u32) -> (usize, Duration) {
        let start = Instant::now();
        let (mut waiting, mut settled, mut longest) = (VecDeque::new(), 0, Duration::ZERO);
        for milli in 0..seconds * 1_000 {
            let now = start + MILLI * milli;
            waiting.extend((0..offered).filter_map(|_| shed.enter(1, now)));
            for _ in 0..capacity {
                let Some(entered) = waiting.pop_front() else { break };
                let took = now - entered.since;
                shed.settled(took, &entered, now);
                if milli >= (seconds - 1) * 1_000 {
                    longest = longest.max(took);
                    settled += 1;
                }
            }
        }
        (settled, longest)
    }

    #[test]
    fn triple_load_keeps_rate_and_latency() {
        let shed = shed(TARGET);
        assert_eq!(simulate(&shed, 10, 10, 5), (10_000, Duration::ZERO));
        assert_eq!(shed.refused.get(), 0);
        let (settled, longest) = simulate(&shed, 30, 10, 10);
        assert_eq!(settled, 10_000);
        assert!(longest < 2 * TARGET, "{longest:?}");
        // Nothing is refused afterwards.
        let before = shed.refused.get();
        assert_eq!(simulate(&shed, 9, 10, 5), (9_000, Duration::ZERO));
        assert_eq!(shed.refused.get(), before);
        assert_eq!(shed.in_progress.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_limit_everything_waits() {
        let (settled, longest) = simulate(&shed(Duration::ZERO), 30, 10, 10);
        assert_eq!(settled, 10_000);
        assert!(longest > Duration::from_secs(5), "{longest:?}");
    }

    #[test]
    fn limit_recovers_after_an_outage() {
        let shed = shed(TARGET);
        let start = Instant::now();
        // A broker was unreachable for some seconds.
        for n in 0..1_000 {
            let entered = shed.enter(1, start).unwrap();
            shed.settled(Duration::from_secs(3), &entered, start + MILLI * n);
            // Shrinks from the likes in progress, not from the former limit.
            assert!(n < 200 || shed.limit.load(Ordering::Relaxed) <= 500);
        }
        assert_eq!(shed.limit.load(Ordering::Relaxed), LEAST);
        simulate(&shed, 40, 50, 3);
        let before = shed.refused.get();
        simulate(&shed, 40, 50, 1);
        assert_eq!(shed.refused.get(), before);
        // Bursts above the smallest limit.
        let bursts = |from: u32, seconds: u32| {
            let mut waiting = VecDeque::new();
            for milli in from * 1_000..(from + seconds) * 1_000 {
                let now = start + MILLI * milli;
                waiting.extend((0..if milli % 10 == 0 { 400 } else { 0 }).filter_map(|_| shed.enter(1, now)));
                for entered in waiting.drain(..waiting.len().min(50)) {
                    shed.settled(now - entered.since, &entered, now);
                }
            }
        };
        bursts(60, 3);
        let before = shed.refused.get();
        bursts(63, 1);
        assert_eq!(shed.refused.get(), before);
    }
}
