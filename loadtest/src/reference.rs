//! What the counts must be, from the generated events alone: written without the aggregator's
//! code, so that no mistake is shared.

use std::collections::HashMap;

use crate::generate::Event;

/// How repeats are dropped, which decides how much is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// All of them: each count is one number.
    Dropped,
    /// Some of them, depending on where batches end: each count is one of a range.
    Perhaps,
}

/// Per product the number of users who like it and the sum of its delta events.
pub struct Reference {
    wishes: HashMap<(u32, u32), Wish>,
    products: Vec<Deltas>,
    /// How many repeats there were.
    pub repeats: u64,
}

struct Wish {
    liked: bool,
    /// A repeat of the other wish came later: if it isn't dropped, that is what counts.
    doubtful: bool,
}

#[derive(Default, Clone, Copy)]
struct Deltas {
    sum: i64,
    repeated_likes: i64,
    repeated_unlikes: i64,
}

/// From the least to the most a count may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// At least.
    pub least: i64,
    /// At most.
    pub most: i64,
}

impl Reference {
    /// For that many products.
    pub fn new(products: u32) -> Self {
        Self { wishes: HashMap::new(), products: vec![Deltas::default(); products as usize], repeats: 0 }
    }

    /// The log's next event.
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
            self.wishes.insert(pair, Wish { liked: event.liked, doubtful: false });
        } else if let Some(wish) = self.wishes.get_mut(&pair) {
            wish.doubtful |= wish.liked != event.liked;
        }
    }

    /// Per product number, what its count must be.
    pub fn counts(&self, repeats: Repeats) -> Vec<Range> {
        let perhaps = repeats == Repeats::Perhaps;
        let mut counts: Vec<_> = self
            .products
            .iter()
            .map(|deltas| Range {
                least: deltas.sum - if perhaps { deltas.repeated_unlikes } else { 0 },
                most: deltas.sum + if perhaps { deltas.repeated_likes } else { 0 },
            })
            .collect();
        for (&(product, _), wish) in &self.wishes {
            let count = &mut counts[product as usize];
            let doubtful = perhaps && wish.doubtful;
            count.least += i64::from(wish.liked && !doubtful);
            count.most += i64::from(wish.liked || doubtful);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn event(liked: bool, user: Option<u32>, repeat: bool) -> Event {
        Event { id: Uuid::nil(), liked, product: 0, user, millis: 0, repeat }
    }

    fn counts(events: &[Event]) -> [(i64, i64); 2] {
        let mut reference = Reference::new(1);
        events.iter().for_each(|event| reference.add(event));
        [Repeats::Dropped, Repeats::Perhaps].map(|repeats| {
            let Range { least, most } = reference.counts(repeats)[0];
            (least, most)
        })
    }

    #[test]
    fn the_last_wish_of_a_user_counts() {
        let log = [event(true, Some(1), false), event(true, Some(2), false), event(false, Some(1), false)];
        assert_eq!(counts(&log), [(1, 1), (1, 1)]);
    }

    #[test]
    fn a_late_repeat_of_an_older_wish_is_doubtful_only_where_repeats_may_count() {
        let log = [event(true, Some(1), false), event(false, Some(1), false), event(true, Some(1), true)];
        assert_eq!(counts(&log), [(0, 0), (0, 1)]);
        let settled = [log[0], log[1], log[2], event(false, Some(1), false)];
        assert_eq!(counts(&settled), [(0, 0), (0, 0)]);
    }

    #[test]
    fn delta_events_are_summed_and_their_repeats_may_count() {
        let log = [event(true, None, false), event(true, None, true), event(false, None, false)];
        assert_eq!(counts(&log), [(0, 0), (0, 1)]);
    }
}
