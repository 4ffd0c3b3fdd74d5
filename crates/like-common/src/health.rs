//! Liveness and readiness, reported by the parts of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// The condition that is unmet from the signal to the end.
pub const SHUTDOWN: &str = "shutdown";

/// Shared by all parts of a service and its admin port. A condition that several parts have in common, such as lanes, is
/// met while none of them reports it as unmet.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Inner>,
    part: usize,
}

#[derive(Default)]
struct Inner {
    conditions: Mutex<Conditions>,
    heartbeats: Mutex<Vec<Heartbeat>>,
}

#[derive(Default)]
struct Conditions {
    /// The unmet conditions, by part, and why they are unmet.
    unmet: BTreeMap<(&'static str, usize), String>,
    /// Conditions that count towards readiness only until they are met for the first time. None: all
    /// conditions always count.
    met_once: Option<BTreeSet<&'static str>>,
    /// Whether all conditions were met at some time.
    complete: bool,
}

impl Conditions {
    fn reasons(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.unmet.iter().map(|((condition, _), why)| (*condition, why.clone()))
    }
}

impl Health {
    /// Returns the health of a service that is ready while each of `conditions` is met.
    pub fn waiting_for(conditions: &[&'static str]) -> Self {
        Self::default().waits_for(conditions)
    }

    /// Returns the health of a service that is ready once each of `conditions` was met, whatever is
    /// reported later: an outage of a shared dependency must not take all replicas out of service.
    pub fn waiting_once_for(conditions: &[&'static str]) -> Self {
        let health = Self::default();
        health.conditions().met_once = Some(BTreeSet::new());
        health.waits_for(conditions)
    }

    fn waits_for(self, conditions: &[&'static str]) -> Self {
        for condition in conditions {
            self.unmet(condition, "not there yet");
        }
        self
    }

    /// Returns the same health, for the reports of this part.
    #[must_use]
    pub fn part(&self, part: usize) -> Self {
        Self { inner: Arc::clone(&self.inner), part }
    }

    /// Forgets what the parts from `part` on have reported.
    pub fn forget_parts(&self, part: usize) {
        self.conditions().unmet.retain(|(_, of), _| *of < part);
    }

    /// Reports that `condition` is met in this part; returns whether that is a change.
    pub fn met(&self, condition: &'static str) -> bool {
        let mut conditions = self.conditions();
        let changed = conditions.unmet.remove(&(condition, self.part)).is_some();
        if let Some(met_once) = &mut conditions.met_once {
            met_once.insert(condition);
            if changed && conditions.unmet.is_empty() {
                conditions.complete = true;
                info!("writes are possible");
            }
        }
        changed
    }

    /// Reports that `condition` is not met; returns whether that, or the reason, is a change.
    pub fn unmet(&self, condition: &'static str, why: impl Into<String>) -> bool {
        let why = why.into();
        let mut conditions = self.conditions();
        if conditions.met_once.is_some() && conditions.complete && conditions.unmet.is_empty() && condition != SHUTDOWN
        {
            warn!(condition, why, "writes are not possible");
        }
        let before = conditions.unmet.insert((condition, self.part), why.clone());
        before != Some(why)
    }

    /// Returns the conditions that make the service unready, and their reasons.
    pub fn unready(&self) -> BTreeMap<&'static str, String> {
        let conditions = self.conditions();
        let met_once = |condition: &str| conditions.met_once.as_ref().is_some_and(|met| met.contains(condition));
        conditions.reasons().filter(|(condition, _)| !met_once(condition)).collect()
    }

    /// Returns all unmet conditions: the reasons why writes are not possible.
    pub fn unwritable(&self) -> BTreeMap<&'static str, String> {
        self.conditions().reasons().collect()
    }

    pub fn is_ready(&self) -> bool {
        self.unready().is_empty()
    }

    /// Returns a heartbeat for a loop, which counts as dead if it doesn't beat for `limit`.
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        let beat = Heartbeat { name, limit, start: Instant::now(), last_ms: Arc::new(AtomicU64::new(0)) };
        self.inner.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).push(beat.clone());
        beat
    }

    /// Returns the loops whose last beat is too old, with its age.
    pub fn silent(&self) -> BTreeMap<&'static str, String> {
        let mut beats = self.inner.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        // A loop that has ended has dropped its heartbeat.
        beats.retain(|beat| Arc::strong_count(&beat.last_ms) > 1);
        let silent = beats.iter().filter(|beat| beat.age() > beat.limit);
        silent.map(|beat| (beat.name, format!("silent for {} s", beat.age().as_secs()))).collect()
    }

    fn conditions(&self) -> std::sync::MutexGuard<'_, Conditions> {
        self.inner.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a loop that must keep running.
#[derive(Clone)]
pub struct Heartbeat {
    name: &'static str,
    limit: Duration,
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Heartbeat {
    pub fn beat(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let now = self.start.elapsed();
        now.saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_condition_is_met() {
        let health = Health::waiting_for(&["kafka", "database"]);
        assert!(health.met("kafka") && !health.is_ready());
        assert!(health.met("database") && health.is_ready());
        assert!(health.unmet("kafka", "gone") && !health.unmet("kafka", "gone"));
        assert_eq!(health.unready()["kafka"], "gone");
    }

    #[test]
    fn condition_is_met_once_every_part_says_so() {
        let health = Health::waiting_for(&["group"]);
        let second = health.part(1);
        second.unmet("group", "joining");
        assert!(health.met("group") && !health.is_ready());
        assert_eq!(health.unready()["group"], "joining");
        health.forget_parts(1);
        assert!(health.is_ready());
    }

    #[test]
    fn later_outage_only_prevents_writes() {
        let health = Health::waiting_once_for(&["kafka", "layout"]);
        assert!(health.met("kafka"));
        health.unmet("kafka", "gone again");
        assert_eq!(health.unready().keys().collect::<Vec<_>>(), [&"layout"]);
        assert!(health.met("layout") && health.is_ready());
        assert_eq!(health.unwritable()["kafka"], "gone again");
        assert!(health.met("kafka") && health.unwritable().is_empty());
        health.unmet(SHUTDOWN, "shutting down");
        assert!(!health.is_ready() && !health.unwritable().is_empty());
    }

    #[test]
    fn silent_loop_is_dead_until_it_ends() {
        let health = Health::default();
        let beat = health.heartbeat("worker", Duration::ZERO);
        let still = health.heartbeat("other", Duration::from_secs(3600));
        still.beat();
        let silent = loop {
            let silent = health.silent();
            if !silent.is_empty() {
                break silent;
            }
        };
        assert_eq!(silent.keys().collect::<Vec<_>>(), [&"worker"]);
        drop(beat);
        assert!(health.silent().is_empty(), "an ended loop is forgotten");
    }
}
