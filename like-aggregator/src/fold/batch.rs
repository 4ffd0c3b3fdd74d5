//! What one transaction applies, and the fold itself: decode, drop repeats, keep each user's last
//! wish, sum up per product. Pure: no Kafka, no SQL, no clock. What it gives depends on the log
//! alone, and cutting the log into batches elsewhere gives the same.

use std::collections::BTreeMap;
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use like_events::{ProductPrefix, Reject, decode};
use uuid::Uuid;

/// What a log folds to, as a number. Raise it with every change of this file that folds any log
/// to other likers, counts or deltas: a database folded under another number is refused.
pub const FOLD_VERSION: i32 = 1;

/// Key and value of a dead letter are kept up to this many bytes each.
pub const DEAD_LETTER_BYTES: usize = 64 * 1024;

/// Dead letters of one batch are kept in memory until it commits: no more than this.
const DEAD_LETTERS_BYTES: usize = 8 * 1024 * 1024;

/// Timestamps beyond the year 9999, in milliseconds, are no record's time.
const TIME_END_MS: i64 = 253_402_300_800_000;

/// Milliseconds since 1970, UTC: a record's timestamp.
pub type Millis = i64;

/// A record as it stands in the log.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp; with `LogAppendTime`, when the broker wrote it.
    pub time: Millis,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The part of a partition that a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The next offset before the batch, as this process believes.
    pub believed: i64,
    /// The next offset after it.
    pub next: i64,
    /// The last record's timestamp; None if that record has no valid one.
    pub last_time: Option<Millis>,
}

/// A record that is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key, cut at [`DEAD_LETTER_BYTES`].
    pub key: Option<Vec<u8>>,
    /// Its value, cut likewise.
    pub payload: Option<Vec<u8>>,
    /// Its timestamp; None if that is no valid one.
    pub time: Option<Millis>,
    /// The rule that it broke.
    pub reason: Reject,
}

#[derive(Debug)]
struct Event {
    id: Uuid,
    time: Millis,
    offset: i64,
    partition: i32,
    product: u32,
    liked: bool,
    /// None for a delta event.
    user: Option<EventUser>,
}

#[derive(Debug, Clone, Copy)]
struct EventUser {
    /// The row of `product_like`; hashed while the batch is filled, since folding it keeps the
    /// database waiting.
    pair_key: Uuid,
    /// Where the user's id stands in `Batch::users`.
    start: u32,
    length: u8,
}

/// Records of one or more partitions, each partition's in the log's order.
#[derive(Debug, Default)]
pub struct Batch {
    events: Vec<Event>,
    dead_letters: Vec<DeadLetter>,
    dead_bytes: usize,
    spans: BTreeMap<i32, Span>,
    products: Vec<(Box<str>, ProductPrefix)>,
    product_numbers: HashMap<Box<str>, u32>,
    users: String,
}

/// How repeats are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedup {
    /// Against all that was folded: an id counts once within this time of the last one counted.
    History(Duration),
    /// Inside a batch only.
    Batch,
}

impl Batch {
    /// Adds a record; `believed` is the partition's next offset before it.
    pub fn push(&mut self, record: &Record<'_>, believed: i64) {
        let valid_time = is_valid(record.time);
        let span = self.spans.entry(record.partition).or_insert(Span { believed, next: believed, last_time: None });
        span.next = record.offset + 1;
        span.last_time = valid_time.then_some(record.time);

        let event = match decode(record.key, record.value) {
            Ok(event) if valid_time => event,
            Ok(_) => return self.push_dead_letter(record, Reject::Timestamp(record.time)),
            Err(reason) => return self.push_dead_letter(record, reason),
        };
        let product = self.product_number(&event.product_id);
        let user = event.user_id.map(|user| {
            let start = self.users.len() as u32;
            self.users.push_str(&user);
            let prefix = self.products[product as usize].1;
            EventUser { pair_key: prefix.pair_key(&event.product_id, &user), start, length: user.len() as u8 }
        });
        let (id, liked) = (event.event_id.uuid(), event.liked);
        let Record { partition, offset, time, .. } = *record;
        self.events.push(Event { id, time, offset, partition, product, liked, user });
    }

    fn push_dead_letter(&mut self, record: &Record<'_>, reason: Reject) {
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(DEAD_LETTER_BYTES)].to_vec();
        let (key, payload) = (record.key.map(cut), record.value.map(cut));
        self.dead_bytes += key.as_ref().map_or(0, Vec::len) + payload.as_ref().map_or(0, Vec::len);
        let Record { partition, offset, time, .. } = *record;
        let time = is_valid(time).then_some(time);
        self.dead_letters.push(DeadLetter { partition, offset, key, payload, time, reason });
    }

    fn product_number(&mut self, product: &str) -> u32 {
        if let Some(number) = self.product_numbers.get(product) {
            return *number;
        }
        let number = self.products.len() as u32;
        self.products.push((product.into(), ProductPrefix::of(product)));
        self.product_numbers.insert(product.into(), number);
        number
    }

    /// Records in the batch, dead letters included.
    pub fn len(&self) -> usize {
        self.events.len() + self.dead_letters.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it must be applied before more is added.
    pub fn is_full(&self, max_events: usize) -> bool {
        self.len() >= max_events || self.dead_bytes >= DEAD_LETTERS_BYTES
    }

    /// Per partition, what the batch covers, in partition order.
    pub fn spans(&self) -> &BTreeMap<i32, Span> {
        &self.spans
    }

    /// Records that are no events, in the order they came.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    /// Forgets what it holds of a partition, which is no longer ours or starts anew.
    pub fn remove_partition(&mut self, partition: i32) {
        if self.spans.remove(&partition).is_some() {
            self.events.retain(|event| event.partition != partition);
            self.dead_letters.retain(|letter| letter.partition != partition);
        }
    }

    /// Cuts off the second half of its records, by partition and offset: what is left comes first.
    /// None: there is but one. Where a batch is cut makes no difference to what is counted.
    pub fn split_off_half(&mut self) -> Option<Self> {
        let events = self.events.iter().map(|event| (event.partition, event.offset, Some(event.time)));
        let letters = self.dead_letters.iter().map(|letter| (letter.partition, letter.offset, letter.time));
        let mut records: Vec<_> = events.chain(letters).collect();
        if records.len() < 2 {
            return None;
        }
        records.sort_unstable();
        let middle = records.len() / 2;
        let (partition, offset, _) = records[middle];
        let is_second = |p: i32, o: i64| (p, o) >= (partition, offset);

        let mut spans = self.spans.split_off(&partition);
        let (last, end, time) = records[middle - 1];
        if last == partition
            && let Some(rest) = spans.get_mut(&partition)
        {
            let first = Span { next: end + 1, last_time: time, ..*rest };
            rest.believed = first.next;
            self.spans.insert(partition, first);
        }
        Some(Self {
            events: self.events.extract_if(.., |event| is_second(event.partition, event.offset)).collect(),
            dead_letters: self.dead_letters.extract_if(.., |l| is_second(l.partition, l.offset)).collect(),
            dead_bytes: 0,
            spans,
            // More than it needs; it is rare.
            products: self.products.clone(),
            product_numbers: self.product_numbers.clone(),
            users: self.users.clone(),
        })
    }

    /// The timestamps of its events, in the order they came.
    pub fn times(&self) -> impl Iterator<Item = Millis> {
        self.events.iter().map(|event| event.time)
    }

    /// The ids of its events, sorted, each once: what the history is asked for.
    pub fn event_ids(&self) -> Vec<Uuid> {
        let mut ids: Vec<_> = self.events.iter().map(|event| event.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Drops repeats and folds the rest. `handled` holds, for ids of this batch, the latest time
    /// at which they were counted before, as far as it is known; for [`Dedup::Batch`] it is empty.
    pub fn fold(&self, dedup: Dedup, handled: HashMap<Uuid, Millis>) -> Fold<'_> {
        let mut fold = Fold { handled: Vec::with_capacity(self.events.len()), ..Fold::new(self.products.len()) };
        let mut seen = handled;
        seen.reserve(self.events.len());
        let mut wishes: HashMap<Uuid, Wish<'_>> = HashMap::with_capacity(self.events.len());
        for event in &self.events {
            match seen.entry(event.id) {
                Entry::Occupied(mut entry) => {
                    let repeat = match dedup {
                        Dedup::History(window) => *entry.get() >= event.time - window.as_millis() as Millis,
                        Dedup::Batch => true,
                    };
                    if repeat {
                        fold.duplicates += 1;
                        continue;
                    }
                    entry.insert(event.time);
                }
                Entry::Vacant(entry) => {
                    entry.insert(event.time);
                }
            }
            fold.handled.push((event.id, event.time));
            let Some(EventUser { pair_key, start, length }) = event.user else {
                fold.deltas[event.product as usize] += if event.liked { 1 } else { -1 };
                fold.delta_events += 1;
                continue;
            };
            let user = &self.users[start as usize..][..usize::from(length)];
            let wish = wishes.entry(pair_key).or_insert(Wish {
                pair_key,
                product: event.product,
                user,
                first: event.liked,
                last: event.liked,
                events: 0,
                flips: 0,
            });
            wish.events += 1;
            wish.flips += u64::from(wish.last != event.liked);
            wish.last = event.liked;
        }
        fold.wishes = wishes.into_values().collect();
        // Sorted for the index they are looked up in and inserted into; repeats of a time-ordered
        // id stay neighbours.
        fold.wishes.sort_unstable_by_key(|wish| wish.pair_key);
        fold.handled.sort_unstable();
        fold
    }

    /// The name behind a product number of this batch.
    pub fn product(&self, number: u32) -> &str {
        &self.products[number as usize].0
    }
}

fn is_valid(time: Millis) -> bool {
    (0..TIME_END_MS).contains(&time)
}

/// What one user wants for one product after the batch.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The row of `product_like` that it is about.
    pub pair_key: Uuid,
    /// The product, by its number in the batch.
    pub product: u32,
    /// The user.
    pub user: &'a str,
    first: bool,
    /// The wish that counts: the last one.
    pub last: bool,
    events: u64,
    flips: u64,
}

/// A batch without its repeats, folded as far as the batch alone can tell.
#[derive(Debug)]
pub struct Fold<'a> {
    /// Ids and times to remember as handled, sorted by id.
    pub handled: Vec<(Uuid, Millis)>,
    /// The last wish of each (product, user), sorted by key.
    pub wishes: Vec<Wish<'a>>,
    /// Repeats that were dropped.
    pub duplicates: u64,
    delta_events: u64,
    /// Per product number, the sum of its delta events.
    deltas: Vec<i64>,
}

/// What has to be written, once it is known what was liked before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Indexes of `Fold::wishes` that like for the first time: rows to insert.
    pub first_likes: Vec<usize>,
    /// Indexes of those whose row changes.
    pub changed: Vec<usize>,
    /// Per product, what to add; in the order of product ids, without products that don't change.
    pub sums: Vec<ProductSum>,
    /// Events that changed what its user likes, and delta events.
    pub applied: u64,
    /// Events that asked for what was so already.
    pub unchanged: u64,
}

/// What a batch adds to one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductSum {
    /// The product's number in the batch.
    pub product: u32,
    /// To add to `like_count`: likers and deltas.
    pub likes: i64,
    /// To add to `delta_count`.
    pub deltas: i64,
}

impl<'a> Fold<'a> {
    fn new(products: usize) -> Self {
        Self { handled: Vec::new(), wishes: Vec::new(), duplicates: 0, delta_events: 0, deltas: vec![0; products] }
    }

    /// Compares the wishes with what `product_like` holds for them: true or false where there is
    /// a row, nothing where there is none.
    pub fn changes(&self, batch: &'a Batch, liked: &HashMap<Uuid, bool>) -> Changes {
        let mut changes = Changes { applied: self.delta_events, ..Changes::default() };
        let mut likes = self.deltas.clone();
        for (index, wish) in self.wishes.iter().enumerate() {
            let row = liked.get(&wish.pair_key).copied();
            let before = row.unwrap_or(false);
            let applied = wish.flips + u64::from(wish.first != before);
            changes.applied += applied;
            changes.unchanged += wish.events - applied;
            if wish.last != before {
                likes[wish.product as usize] += if wish.last { 1 } else { -1 };
                if row.is_some() { changes.changed.push(index) } else { changes.first_likes.push(index) }
            }
        }
        for (product, (&likes, &deltas)) in (0..).zip(likes.iter().zip(&self.deltas)) {
            if likes != 0 || deltas != 0 {
                changes.sums.push(ProductSum { product, likes, deltas });
            }
        }
        changes.sums.sort_unstable_by_key(|sum| batch.product(sum.product));
        changes
    }
}
