//! The fold of a batch: drops duplicates, keeps each user's last desired state and adds up per product, and per product and
//! hour. Pure: no Kafka, no SQL, no clock. The result depends on the log alone, and not on where it is cut into batches.
//!
//! A change counts in the hour of its own record. A like at 10:59 and an unlike at 11:01 are +1 for the hour of 10 and -1 for
//! the hour of 11, whether they share a batch or not. So a user's changes within the batch count one by one. Only for the
//! first event does the stored state decide whether it changes anything.

use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use uuid::Uuid;

use super::batch::{Batch, EventUser, Millis};

/// The version of the fold. Raise it with every change that folds any log to other likers, counts, deltas or hour sums: a
/// database with another version is refused.
pub const FOLD_VERSION: i32 = 2;

/// How duplicates are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedup {
    /// Against the history: an id counts once within this time of the last one counted.
    History(Duration),
    /// Within a batch only.
    Batch,
}

/// Milliseconds of an hour.
const HOUR: Millis = 3_600_000;

impl Batch {
    /// Drops duplicates and folds the rest. `handled` has the last time at which ids of this batch were counted before, as
    /// far as known; for [`Dedup::Batch`] it is empty.
    pub fn fold(&self, dedup: Dedup, handled: HashMap<Uuid, Millis>) -> Fold<'_> {
        let is_duplicate = |last: Millis, time: Millis| match dedup {
            Dedup::History(window) => last >= time - window.as_millis() as Millis,
            Dedup::Batch => true,
        };
        let mut fold = Fold { deltas: vec![0; self.products.len()], ..Fold::default() };
        fold.handled.reserve(self.events.len());
        let mut seen = handled;
        seen.reserve(self.events.len());
        let mut all_desired: HashMap<Uuid, Desired<'_>> = HashMap::with_capacity(self.events.len());
        for event in &self.events {
            match seen.entry(event.id) {
                Entry::Occupied(entry) if is_duplicate(*entry.get(), event.time) => {
                    fold.duplicates += 1;
                    continue;
                }
                entry => {
                    entry.insert(event.time);
                }
            }
            fold.handled.push((event.id, event.time));
            let hour = event.time - event.time.rem_euclid(HOUR);
            let step = if event.liked { 1 } else { -1 };
            let Some(EventUser { pair_key, start, length }) = event.user else {
                fold.deltas[event.product as usize] += step;
                *fold.hours.entry((hour, event.product)).or_default() += step;
                fold.delta_events += 1;
                continue;
            };
            let user = &self.users[start as usize..][..usize::from(length)];
            let desired = all_desired.entry(pair_key).or_insert(Desired {
                pair_key,
                product: event.product,
                user,
                first: event.liked,
                first_hour: hour,
                last: event.liked,
                events: 0,
                flips: 0,
            });
            desired.events += 1;
            if desired.last != event.liked {
                desired.flips += 1;
                desired.last = event.liked;
                *fold.hours.entry((hour, event.product)).or_default() += step;
            }
        }
        fold.desired = all_desired.into_values().collect();
        // Sorted for the index in which they are looked up and inserted.
        fold.desired.sort_unstable_by_key(|desired| desired.pair_key);
        fold.handled.sort_unstable();
        fold
    }
}

/// The state that one user desires for one product after the batch.
#[derive(Debug, Clone, Copy)]
pub struct Desired<'a> {
    pub pair_key: Uuid,
    /// The product's number in the batch.
    pub product: u32,
    pub user: &'a str,
    first: bool,
    first_hour: Millis,
    /// Whether the last event is a like: the one that counts.
    pub last: bool,
    events: u64,
    flips: u64,
}

/// A batch without duplicates, folded as far as possible without the database.
#[derive(Debug, Default)]
pub struct Fold<'a> {
    /// Ids and times to insert into `event_handled`, sorted by id.
    pub handled: Vec<(Uuid, Millis)>,
    /// The desired state of each (product, user), sorted by key.
    pub desired: Vec<Desired<'a>>,
    pub duplicates: u64,
    delta_events: u64,
    /// Per product number, the sum of its delta events.
    deltas: Vec<i64>,
    /// Per hour and product number, what is gained whatever was stored: by all but the first event of each (product, user).
    hours: HashMap<(Millis, u32), i64>,
}

/// The changes to write, given what was liked before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Indexes of `Fold::desired` that like for the first time: rows to insert.
    pub first_likes: Vec<usize>,
    /// Indexes of those whose row is to be updated.
    pub changed: Vec<usize>,
    /// The sums to add, in the order of product ids, without products that don't change.
    pub sums: Vec<ProductSum>,
    /// The same by hour, in the order of hours and product ids, without those that don't change.
    pub hours: Vec<HourSum>,
    /// Events that changed what their user likes, and delta events.
    pub applied: u64,
    /// Events whose desired state was already stored.
    pub unchanged: u64,
}

/// The sums that a batch adds to one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductSum {
    /// The product's number in the batch.
    pub product: u32,
    /// To add to `like_count`: likers and deltas.
    pub likes: i64,
    /// To add to `delta_count`.
    pub deltas: i64,
}

/// The sum that a batch adds to one product and hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HourSum {
    /// Its begin.
    pub hour: Millis,
    /// The product's number in the batch.
    pub product: u32,
    pub likes: i64,
}

impl<'a> Fold<'a> {
    /// Compares the desired states with `product_like`; `liked` holds those that have a row.
    pub fn changes(&self, batch: &'a Batch, liked: &HashMap<Uuid, bool>) -> Changes {
        let mut changes = Changes { applied: self.delta_events, ..Changes::default() };
        let mut likes = self.deltas.clone();
        let mut hours = self.hours.clone();
        for (index, desired) in self.desired.iter().enumerate() {
            let row = liked.get(&desired.pair_key).copied();
            let before = row.unwrap_or(false);
            if desired.first != before {
                *hours.entry((desired.first_hour, desired.product)).or_default() += if desired.first { 1 } else { -1 };
            }
            let applied = desired.flips + u64::from(desired.first != before);
            changes.applied += applied;
            changes.unchanged += desired.events - applied;
            if desired.last != before {
                likes[desired.product as usize] += if desired.last { 1 } else { -1 };
                if row.is_some() { changes.changed.push(index) } else { changes.first_likes.push(index) }
            }
        }
        for (product, (&likes, &deltas)) in (0..).zip(likes.iter().zip(&self.deltas)) {
            if likes != 0 || deltas != 0 {
                changes.sums.push(ProductSum { product, likes, deltas });
            }
        }
        changes.sums.sort_unstable_by_key(|sum| batch.product(sum.product));
        let hours = hours.into_iter().filter(|(_, likes)| *likes != 0);
        changes.hours = hours.map(|((hour, product), likes)| HourSum { hour, product, likes }).collect();
        changes.hours.sort_unstable_by_key(|sum| (sum.hour, batch.product(sum.product)));
        changes
    }
}
