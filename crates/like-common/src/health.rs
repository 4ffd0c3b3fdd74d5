//! Liveness and readiness, reported by the parts of a service.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by all parts of a service and its admin port.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The unmet conditions and why they are unmet; ready if empty.
    waiting_for: Mutex<BTreeMap<&'static str, String>>,
    heartbeats: Mutex<Vec<Heartbeat>>,
}

impl Health {
    /// Returns the health of a service that is ready once each of `conditions` is met.
    pub fn waiting_for(conditions: &[&'static str]) -> Self {
        let health = Self::default();
        for condition in conditions {
            health.unmet(condition, "not there yet");
        }
        health
    }

    /// Reports that `condition` is met; returns whether that is a change.
    pub fn met(&self, condition: &'static str) -> bool {
        self.conditions().remove(condition).is_some()
    }

    /// Reports that `condition` is not met; returns whether that, or the reason, is a change.
    pub fn unmet(&self, condition: &'static str, why: impl Into<String>) -> bool {
        let why = why.into();
        self.conditions().insert(condition, why.clone()) != Some(why)
    }

    /// Returns the unmet conditions and their reasons.
    pub fn unready(&self) -> BTreeMap<&'static str, String> {
        self.conditions().clone()
    }

    pub fn is_ready(&self) -> bool {
        self.conditions().is_empty()
    }

    /// Returns a heartbeat for a loop, which counts as dead if it doesn't beat for `limit`.
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        let beat = Heartbeat { name, limit, start: Instant::now(), last_ms: Arc::new(AtomicU64::new(0)) };
        self.0.heartbeats.lock().unwrap_or_else(PoisonError::into_inner).push(beat.clone());
        beat
    }

    /// Returns the loops whose last beat is too old, with its age.
    pub fn silent(&self) -> BTreeMap<&'static str, String> {
        let mut beats = self.0.heartbeats.lock().unwrap_or_else(PoisonError::into_inner);
        // A loop that has ended has dropped its heartbeat.
        beats.retain(|beat| Arc::strong_count(&beat.last_ms) > 1);
        let silent = beats.iter().filter(|beat| beat.age() > beat.limit);
        silent.map(|beat| (beat.name, format!("silent for {} s", beat.age().as_secs()))).collect()
    }

    fn conditions(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.waiting_for.lock().unwrap_or_else(PoisonError::into_inner)
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
