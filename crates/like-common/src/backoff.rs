//! Pauses between attempts: growing, so that what is down isn't kept down, and jittered, so that
//! many who wait for the same thing don't come back at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from `first` to `longest`; each pause is between half and all of its step.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    step: Duration,
}

impl Backoff {
    /// Starts at `first` and ends at `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, step: first }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.longest);
        // A hasher's random keys are all the randomness that a pause needs.
        let fraction = (RandomState::new().hash_one(0) % 1024) as u32;
        step / 2 + step / 2 * fraction / 1024
    }

    /// After a success: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for want in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.pause().as_millis();
            assert!((want / 2..=want).contains(&pause), "{pause} for {want}");
        }
        backoff.reset();
        assert!(backoff.pause().as_millis() <= 100);
    }
}
