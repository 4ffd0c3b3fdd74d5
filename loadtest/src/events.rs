//! A generated log of like events. The same seed produces the same events, byte for byte.
//!
//! A like goes to a product by Zipf's law (the second most liked has half the likes of the first,
//! the third a third, …) and to any user. An unlike takes back an earlier like. A repeat is the same
//! record again, up to `REPEATED_WITHIN` events later. Delta events are the same without a user.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use like_events::{EventId, LikeEvent, ProductId, UserId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::{Builder, Uuid};

/// Of 100 events, how many are likes.
const LIKES_PERCENT: u32 = 70;
/// One event in this many is repeated.
const REPEAT_ONE_IN: u32 = 100;
/// A repeat comes this many events later at most: two to three batches.
const REPEATED_WITHIN: u64 = 20_000;
/// 2026-11-22T10:00:00Z: `occurredAt` of the first event.
pub const START_MS: u64 = 1_795_341_600_000;
/// Events per millisecond, by their ids and `occurredAt`.
const EVENTS_PER_MS: u64 = 10;
/// How far the clocks of clients are behind at most.
const CLOCKS_BEHIND_MS: u64 = 2_000;

/// The form of event ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ids {
    /// like-api's own: no client sends a key
    V7,
    /// from keys that are `UUIDv7`s, by their clients' clocks
    V7Derived,
    /// from other keys: hashes
    Random,
}

impl Ids {
    fn make(self, millis: u64, random: [u8; 16]) -> Uuid {
        let [first, second, ..] = random;
        let clock = millis - u64::from(u16::from_be_bytes([first, second])) % CLOCKS_BEHIND_MS;
        let mut derived = random;
        derived[..6].copy_from_slice(&clock.to_be_bytes()[2..]);
        match self {
            Self::V7 => {
                Builder::from_unix_timestamp_millis(millis, random.first_chunk().expect("10 of 16 bytes")).into_uuid()
            }
            Self::V7Derived => Uuid::new_v8(derived),
            Self::Random => Uuid::new_v8(random),
        }
    }
}

/// The parameters of a log.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Events in the log, repeats included.
    pub events: u64,
    /// Different products.
    pub products: u32,
    /// Different users; None: delta events.
    pub users: Option<u32>,
    /// Of 100 likes, how many go to the first product beside those that Zipf's law gives it.
    pub hot_percent: u32,
    pub ids: Ids,
    pub seed: u64,
}

/// One event of the log; users and products by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub id: Uuid,
    pub liked: bool,
    pub product: u32,
    /// None: a delta event.
    pub user: Option<u32>,
    /// `occurredAt`, milliseconds since 1970.
    pub millis: u64,
    /// Whether the log already contains it.
    pub repeat: bool,
}

/// The events of one log, in its order.
pub struct Generator {
    shape: Shape,
    rng: StdRng,
    written: u64,
    /// Per product, the weight of it and of all more popular ones.
    popularity: Vec<f64>,
    /// Likes that can be taken back.
    liked: Vec<(u32, Option<u32>)>,
    /// Repeats that are due, by their position in the log.
    repeats: BTreeMap<u64, Event>,
}

impl Generator {
    pub fn new(shape: Shape) -> Self {
        let mut sum = 0.0;
        let popularity = (1..=shape.products)
            .map(|rank| {
                sum += 1.0 / f64::from(rank);
                sum
            })
            .collect();
        let rng = StdRng::seed_from_u64(shape.seed);
        Self { shape, rng, written: 0, popularity, liked: Vec::new(), repeats: BTreeMap::new() }
    }

    fn fresh(&mut self) -> Event {
        let takes_back = !self.liked.is_empty() && self.rng.random_range(0..100) >= LIKES_PERCENT;
        let (product, user) = if takes_back {
            let earlier = self.rng.random_range(0..self.liked.len());
            self.liked.swap_remove(earlier)
        } else {
            let pair = (self.product(), self.shape.users.map(|users| self.rng.random_range(0..users)));
            self.liked.push(pair);
            pair
        };
        let millis = START_MS + self.written / EVENTS_PER_MS;
        let id = self.shape.ids.make(millis, self.rng.random());
        Event { id, liked: !takes_back, product, user, millis, repeat: false }
    }

    fn product(&mut self) -> u32 {
        // Draws no random number when unused, so that a seed's log stays the same.
        if self.shape.hot_percent > 0 && self.rng.random_range(0..100) < self.shape.hot_percent {
            return 0;
        }
        let at = self.rng.random::<f64>() * self.popularity.last().expect("there are products");
        self.popularity.partition_point(|&up_to| up_to <= at) as u32
    }
}

impl Iterator for Generator {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.written == self.shape.events {
            return None;
        }
        let event = match self.repeats.remove(&self.written) {
            Some(event) => Event { repeat: true, ..event },
            None => self.fresh(),
        };
        if !event.repeat && self.rng.random_range(0..REPEAT_ONE_IN) == 0 {
            let again = self.written + self.rng.random_range(1..=REPEATED_WITHIN);
            self.repeats.insert(again, event);
        }
        self.written += 1;
        Some(event)
    }
}

impl Event {
    /// Key and value of the record.
    pub fn record(&self) -> (String, Vec<u8>) {
        let product = product_id(self.product);
        let event = LikeEvent {
            event_id: EventId::from(self.id),
            liked: self.liked,
            product_id: ProductId::parse(&product).expect("a product id"),
            user_id: self.user.map(|user| UserId::parse(&user_id(user)).expect("a user id")),
            occurred_at: DateTime::<Utc>::from_timestamp_millis(self.millis as i64).expect("this century"),
        };
        (product, event.to_json())
    }
}

/// 12 characters.
pub fn product_id(number: u32) -> String {
    format!("sku-{number:08}")
}

/// 38 characters, like the subject of an identity provider: `auth0|` and 32 hexadecimal digits.
pub fn user_id(number: u32) -> String {
    // Two odd multipliers, so that neighbours don't share their first digits.
    let high = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let low = high.wrapping_mul(0xd134_2543_de82_ef95);
    format!("auth0|{high:016x}{low:016x}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn log(users: Option<u32>, seed: u64) -> Vec<Event> {
        Generator::new(Shape { events: 50_000, products: 100, users, hot_percent: 0, ids: Ids::V7, seed }).collect()
    }

    #[test]
    fn same_seed_makes_the_same_log() {
        assert_eq!(log(Some(1000), 1), log(Some(1000), 1));
        assert_ne!(log(Some(1000), 1), log(Some(1000), 2));
    }

    #[test]
    fn repeat_is_an_earlier_record_again() {
        for users in [Some(1000), None] {
            let log = log(users, 7);
            let mut seen = HashSet::new();
            let mut records = HashSet::new();
            for event in &log {
                assert_eq!(seen.insert(event.id), !event.repeat);
                assert_eq!(records.insert(event.record()), !event.repeat);
            }
            let repeats = log.iter().filter(|event| event.repeat).count();
            assert!((300..600).contains(&repeats), "{repeats}: one in 100, less those due after the log's end");
        }
    }

    #[test]
    fn ids_have_the_form_that_is_asked_for() {
        let shape = Shape { events: 1_000, products: 10, users: Some(10), hot_percent: 0, ids: Ids::V7, seed: 1 };
        for (ids, version, ordered) in [(Ids::V7, 7, true), (Ids::V7Derived, 8, true), (Ids::Random, 8, false)] {
            let behind = |event: &Event| event.millis.wrapping_sub((event.id.as_u128() >> 80) as u64);
            for event in Generator::new(Shape { ids, ..shape }) {
                assert_eq!(event.id.get_version_num(), version);
                assert_eq!(behind(&event) < CLOCKS_BEHIND_MS, ordered, "{ids:?} {event:?}");
            }
        }
    }

    #[test]
    fn ids_have_realistic_lengths() {
        assert_eq!(product_id(999).len(), 12);
        let users: HashSet<_> = (0..10_000).map(user_id).collect();
        assert_eq!(users.len(), 10_000);
        assert!(users.iter().all(|user| user.len() == 38));
    }

    #[test]
    fn likes_follow_zipfs_law() {
        let first = log(Some(1000), 3).iter().filter(|event| event.product == 0).count();
        assert!((8_000..12_000).contains(&first), "{first}: 1 of 5.19 parts of 50,000");
    }
}
