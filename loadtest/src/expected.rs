//! What the counts must be, from the generated events alone: written without the aggregator's code,
//! so that the two share no mistake.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use crate::events::Event;

/// How `DEDUP` drops repeats, which decides how much is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// All of them (`history`): each count is one number.
    Dropped,
    /// Those within a batch (`batch`): each count is in a range, which depends on where batches end.
    Perhaps,
}

/// The desired state of every user, and the sum of the delta events of every product.
pub struct Expected {
    desired: HashMap<(u32, u32), Desired>,
    products: Vec<Deltas>,
    /// The number of repeats.
    pub repeats: u64,
}

struct Desired {
    liked: bool,
    /// A repeat of the opposite state came later: it decides if it isn't dropped.
    uncertain: bool,
}

#[derive(Default, Clone, Copy)]
struct Deltas {
    sum: i64,
    repeated_likes: i64,
    repeated_unlikes: i64,
}

impl Expected {
    /// Of an empty log.
    pub fn new(products: u32) -> Self {
        Self { desired: HashMap::new(), products: vec![Deltas::default(); products as usize], repeats: 0 }
    }

    /// Adds the log's next event.
    pub fn add(&mut self, event: &Event) {
        self.repeats += u64::from(event.repeat);
        let Some(user) = event.user else {
            let product = &mut self.products[event.product as usize];
            match (event.repeat, event.liked) {
                (false, true) => product.sum += 1,
                (false, false) => product.sum -= 1,
                (true, true) => product.repeated_likes += 1,
                (true, false) => product.repeated_unlikes += 1,
            }
            return;
        };
        let pair = (event.product, user);
        if !event.repeat {
            self.desired.insert(pair, Desired { liked: event.liked, uncertain: false });
        } else if let Some(desired) = self.desired.get_mut(&pair) {
            desired.uncertain |= desired.liked != event.liked;
        }
    }

    /// The possible counts of each product, by its number.
    pub fn counts(&self, repeats: Repeats) -> Vec<RangeInclusive<i64>> {
        let perhaps = repeats == Repeats::Perhaps;
        let mut counts: Vec<_> = self
            .products
            .iter()
            .map(|deltas| {
                let (unlikes, likes) = if perhaps { (deltas.repeated_unlikes, deltas.repeated_likes) } else { (0, 0) };
                (deltas.sum - unlikes, deltas.sum + likes)
            })
            .collect();
        for (&(product, _), desired) in &self.desired {
            let (least, most) = &mut counts[product as usize];
            let uncertain = perhaps && desired.uncertain;
            *least += i64::from(desired.liked && !uncertain);
            *most += i64::from(desired.liked || uncertain);
        }
        counts.into_iter().map(|(least, most)| least..=most).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// Counts with all repeats dropped, and with some.
    fn counts(events: &[(bool, Option<u32>, bool)]) -> [RangeInclusive<i64>; 2] {
        let mut expected = Expected::new(1);
        for &(liked, user, repeat) in events {
            expected.add(&Event { id: Uuid::nil(), liked, product: 0, user, millis: 0, repeat });
        }
        [Repeats::Dropped, Repeats::Perhaps].map(|repeats| expected.counts(repeats).remove(0))
    }

    #[test]
    fn last_state_of_a_user_counts() {
        let log = [(true, Some(1), false), (true, Some(2), false), (false, Some(1), false)];
        assert_eq!(counts(&log), [1..=1, 1..=1]);
    }

    #[test]
    fn late_repeat_is_uncertain_only_where_repeats_may_count() {
        let log = [(true, Some(1), false), (false, Some(1), false), (true, Some(1), true)];
        assert_eq!(counts(&log), [0..=0, 0..=1]);
        let settled = [log[0], log[1], log[2], (false, Some(1), false)];
        assert_eq!(counts(&settled), [0..=0, 0..=0]);
    }

    #[test]
    fn delta_events_are_summed_and_their_repeats_may_count() {
        assert_eq!(counts(&[(true, None, false), (true, None, true), (false, None, false)]), [0..=0, 0..=1]);
    }
}
