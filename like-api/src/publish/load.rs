//! Whether events are gathered before they are sent, by the number of likes in flight. Pure.

/// Events are gathered once so many are in flight on average, and sent at once again below the other number. At 64
/// connections sending at once takes more likes per second, at 256 gathering does.
const GATHER_ABOVE: f64 = 112.0;
const SEND_BELOW: f64 = 72.0;
/// The weight of one poll in the average: acknowledgements come together, so that few may be in flight for a moment.
const WEIGHT: f64 = 1.0 / 16.0;

#[derive(Debug, Default)]
pub(super) struct Load {
    average: f64,
    gathers: bool,
}

impl Load {
    /// Takes the number of likes in flight at a poll; returns whether to gather.
    pub fn follow(&mut self, in_flight: i64) -> bool {
        self.average += (in_flight as f64 - self.average) * WEIGHT;
        self.gathers = self.average > if self.gathers { SEND_BELOW } else { GATHER_ABOVE };
        self.gathers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_gathered_under_load_only() {
        let mut load = Load::default();
        let mut follow = |in_flight: &[i64]| in_flight.iter().cycle().take(64).map(|n| load.follow(*n)).last().unwrap();
        assert!(!follow(&[0, 1]), "one connection");
        assert!(!follow(&[64, 40, 64, 64]), "64 connections");
        assert!(follow(&[256, 250]), "256 connections");
        assert!(follow(&[0, 256, 128]), "the last poll sees none, right after acknowledgements");
        assert!(!follow(&[64]), "fewer again");
    }

    #[test]
    fn burst_is_gathered_from_its_second_millisecond_on() {
        let mut load = Load::default();
        assert!(!load.follow(1_000) && load.follow(1_000));
    }
}
