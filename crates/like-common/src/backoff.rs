//! Pauses between attempts: growing, so that retries don't keep a server down, and jittered, so
//! that many clients don't retry at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Steps that double from `first` to `longest`; a pause is between half a step and a whole one.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    step: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, step: first }
    }

    pub fn pause(&mut self) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.longest);
        // The random keys of a hasher are random enough for a pause.
        let fraction = (RandomState::new().hash_one(0) % 1024) as u32;
        step / 2 + step / 2 * fraction / 1024
    }

    /// Makes the next pause the first one again, after a success.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for want in [100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.pause().as_millis();
            assert!((want / 2..=want).contains(&pause), "{pause} for {want}");
        }
        backoff.reset();
        assert!(backoff.pause().as_millis() <= 100);
    }
}
