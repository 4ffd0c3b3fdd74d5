//! The rate limit of each user or address: governor's arithmetic (GCRA) on a table of fixed size.
//!
//! Why not governor's keyed limiter: its map has an entry per key, so a client that makes up addresses
//! or accounts decides how large it grows. Here every key has [`PLACES`] places in a table of 65,536
//! numbers (half a MiB), chosen by a hash with a secret seed. A place holds the time up to which its
//! keys have used their rate; a key's own time is the *least* of its places. A place's time is never
//! before that of any of its keys, so no key exceeds its rate. A key is delayed by others only if each of
//! its places is shared with a key over the rate. With a thousand keys at their limit this affects one in
//! 70,000 others; with ten thousand (which at 10 a second send ten times what a replica can answer) one in
//! 23.
//!
//! A request may take several units at once, more than the burst too: it is admitted once the whole burst is free, and
//! what exceeds the burst delays the requests after it. So the average rate holds, and no request has to wait for ever.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};

/// Parts of the table, with a lock each.
const SHARDS: usize = 64;
/// Numbers in a part, 8 bytes each.
const SHARD_SLOTS: usize = 1024;
/// Places of a key, all in one shard.
const PLACES: usize = 4;

/// One rate for each key.
pub struct Rate<C: Clock = DefaultClock> {
    limiter: RateLimiter<Charge, RateTable, C, StateInformationMiddleware>,
    burst: NonZeroU32,
    /// The time for one unit.
    period: Duration,
    seed: RandomState,
    shown: String,
}

/// What is left of a key's rate after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Units that may be taken at once.
    pub units: u32,
    /// Seconds until more may be taken: after a refusal, as much as was refused. 0: some are left.
    pub wait: u64,
}

/// What a request takes.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Charge {
    /// Of the key.
    hash: u64,
    /// The time for the units above the burst, in nanoseconds.
    debt: u64,
}

impl Rate {
    /// Creates a rate of so many per second, after `burst` at once. None for a rate of 0: no limit.
    pub fn new(per_second: f64, burst: NonZeroU32) -> Option<Self> {
        Self::with_clock(per_second, burst, DefaultClock::default())
    }
}

impl<C: Clock> Rate<C> {
    fn with_clock(per_second: f64, burst: NonZeroU32, clock: C) -> Option<Self> {
        let period = Duration::try_from_secs_f64(1.0 / per_second).ok()?;
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let limiter = RateLimiter::new(quota, RateTable::default(), clock);
        let shown = format!("{per_second} a second, {burst} at once");
        Some(Self { limiter, burst, period, seed: RandomState::new(), shown })
    }

    /// Takes so many units of `key`, or none of them: then `Left::wait` is the time until they are admitted.
    pub fn take(&self, key: &(impl Hash + ?Sized), units: NonZeroU32) -> Result<Left, Left> {
        let debt = self.period * (units.get() - units.min(self.burst).get());
        let charge = Charge { hash: self.seed.hash_one(key), debt: u64::try_from(debt.as_nanos()).unwrap_or(u64::MAX) };
        let taken = self.limiter.check_key_n(&charge, units.min(self.burst)).expect("at most the burst");
        match taken {
            Ok(state) => {
                let units = if debt.is_zero() { state.remaining_burst_capacity() } else { 0 };
                Ok(Left { units, wait: if units > 0 { 0 } else { seconds(self.period + debt) } })
            }
            Err(refused) => {
                let wait = refused.wait_time_from(self.limiter.clock().now());
                Err(Left { units: 0, wait: seconds(wait) })
            }
        }
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the units that may be taken at once, and the seconds in which so many come back.
    pub fn policy(&self) -> (u32, u64) {
        (self.burst.get(), seconds(self.period * self.burst.get()))
    }
}

/// Rounded up, so that the request is admitted by then; at least 1.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Each place's time up to which the rate is used, in nanoseconds since the start.
struct RateTable(Box<[Mutex<[u64; SHARD_SLOTS]>]>);

impl Default for RateTable {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::new([0; SHARD_SLOTS])).collect())
    }
}

impl StateStore for RateTable {
    type Key = Charge;

    fn measure_and_replace<T, F, E>(&self, Charge { hash, debt }: &Charge, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let shard = &self.0[(hash >> 58) as usize % SHARDS];
        // A lock instead of atomics: two concurrent requests of one key must both count.
        let mut slots = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let places: [usize; PLACES] = std::array::from_fn(|n| (hash >> (10 * n)) as usize % SHARD_SLOTS);
        let used = places.iter().map(|place| slots[*place]).min().unwrap_or_default();
        let (decision, next) = decide((used > 0).then(|| used.into()))?;
        for place in places {
            slots[place] = slots[place].max(next.as_u64().saturating_add(*debt));
        }
        Ok(decision)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(per_second: f64, burst: u32) -> (Rate<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let burst = NonZeroU32::new(burst).unwrap();
        (Rate::with_clock(per_second, burst, clock.clone()).unwrap(), clock)
    }

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn taken(rate: &Rate<FakeRelativeClock>, key: &str, times: usize) -> usize {
        (0..times).filter(|_| rate.take(key, ONE).is_ok()).count()
    }

    #[test]
    fn key_gets_burst_then_rate() {
        let (rate, clock) = rate(10.0, 50);
        assert_eq!(taken(&rate, "a", 100), 50);
        assert_eq!(taken(&rate, "b", 100), 50);
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&rate, "a", 100), 10);
        clock.advance(Duration::from_hours(1));
        assert_eq!(taken(&rate, "a", 100), 50);
        assert!(Rate::new(0.0, NonZeroU32::MIN).is_none());
    }

    #[test]
    fn wait_is_rounded_up_to_seconds() {
        for (per_second, after_ms, wait) in
            [(10.0, 0, 1), (0.25, 0, 4), (0.25, 1, 4), (0.25, 1_000, 3), (0.25, 3_999, 1)]
        {
            let (rate, clock) = rate(per_second, 1);
            rate.take("a", ONE).unwrap();
            clock.advance(Duration::from_millis(after_ms));
            assert_eq!(rate.take("a", ONE), Err(Left { units: 0, wait }), "{per_second} a second, {after_ms} ms later");
            clock.advance(Duration::from_secs(wait));
            assert!(rate.take("a", ONE).is_ok());
        }
    }

    #[test]
    fn many_units_are_taken_whole_or_not() {
        let (rate, clock) = rate(10.0, 50);
        let take = |units| rate.take("a", NonZeroU32::new(units).unwrap());
        assert_eq!(rate.policy(), (50, 5));
        assert_eq!(take(30), Ok(Left { units: 20, wait: 0 }));
        assert_eq!(take(30), Err(Left { units: 0, wait: 1 }), "nothing is taken");
        assert_eq!(take(20), Ok(Left { units: 0, wait: 1 }));
        // More than the burst: once all of it is free, and then the next ones wait for the rest.
        assert_eq!(take(100), Err(Left { units: 0, wait: 5 }));
        clock.advance(Duration::from_secs(5));
        assert_eq!(take(100), Ok(Left { units: 0, wait: 6 }));
        clock.advance(Duration::from_secs(5));
        assert_eq!(take(1), Err(Left { units: 0, wait: 1 }));
        clock.advance(Duration::from_secs(5));
        assert_eq!(take(50), Ok(Left { units: 0, wait: 1 }));
    }

    /// Three million users in ten minutes, and hundreds that never stop.
    #[test]
    fn millions_of_keys_take_no_more_memory() {
        const BUSY: u32 = 300;
        let (rate, clock) = rate(10.0, 50);
        let (mut refused, mut busy) = (0, 0);
        for second in 0..600_u64 {
            for user in 0..5_000_u64 {
                refused += u32::from(rate.take(&(second * 5_000 + user), ONE).is_err());
            }
            for user in 0..BUSY {
                busy += (0..20).filter(|_| rate.take(&("busy", user), ONE).is_ok()).count() as u32;
            }
            clock.advance(Duration::from_secs(1));
        }
        let RateTable(shards) = rate.limiter.into_state_store();
        let bytes: usize = shards.iter().map(|shard| size_of_val(&*shard.lock().unwrap())).sum();
        assert_eq!(bytes, 512 * 1024);
        // No key exceeds its rate because of others' places, and nearly none is delayed by them.
        assert!(busy <= BUSY * (50 + 600 * 10), "{busy}");
        assert!(busy > BUSY * 600 * 9, "{busy}");
        assert!(refused < 300, "{refused} of three million");
    }

    #[test]
    fn full_table_neither_admits_nor_refuses_all() {
        let (rate, clock) = rate(10.0, 50);
        // As many attackers as would fill it several times, all at their limit.
        for attacker in 0..40_000_u32 {
            (0..51).for_each(|_| _ = rate.take(&("attacker", attacker), ONE));
        }
        let passed = (0..10_000_u32).filter(|user| rate.take(&("user", *user), ONE).is_ok()).count();
        assert!(passed < 10_000, "some share places with the attackers");
        clock.advance(Duration::from_secs(1));
        let passed = (0..10_000_u32).filter(|user| rate.take(&("user", *user), ONE).is_ok()).count();
        assert!(passed > 9_000, "{passed} of 10,000 a second later");
    }
}
