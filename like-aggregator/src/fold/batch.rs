//! The records of one transaction: decoded events, dead letters and the offsets that they cover. `fold` computes what they
//! change.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use like_events::{ProductPrefix, Reject, decode, partition};
use uuid::Uuid;

/// The longest key and the longest value that are kept of a dead letter.
pub const DEAD_LETTER_BYTES: usize = 64 * 1024;

/// The most bytes of dead letters in a batch, which are in memory until it commits.
pub const DEAD_LETTERS_BYTES: usize = 8 * 1024 * 1024;

/// The end of valid timestamps: the year 10000, in milliseconds.
const TIME_END_MS: i64 = 253_402_300_800_000;

/// Milliseconds since 1970, UTC: a record's timestamp.
pub type Millis = i64;

#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Its timestamp; with `LogAppendTime`, when the broker wrote it.
    pub time: Millis,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// The part of a partition that a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The next offset before the batch, as this process expects it.
    pub believed: i64,
    /// The next offset after it.
    pub next: i64,
    /// The last record's timestamp; None if that record has no valid one.
    pub last_time: Option<Millis>,
}

/// A record that isn't an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub partition: i32,
    pub offset: i64,
    /// Its key, cut at [`DEAD_LETTER_BYTES`].
    pub key: Option<Vec<u8>>,
    /// Its value, cut likewise.
    pub payload: Option<Vec<u8>>,
    /// Its timestamp; None if that is no valid one.
    pub time: Option<Millis>,
    pub reason: Reject,
}

impl DeadLetter {
    fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.payload.as_ref().map_or(0, Vec::len)
    }
}

#[derive(Debug)]
pub(super) struct BatchEvent {
    pub(super) id: Uuid,
    pub(super) time: Millis,
    pub(super) offset: i64,
    pub(super) partition: i32,
    pub(super) product: u32,
    pub(super) liked: bool,
    /// None for a delta event.
    pub(super) user: Option<EventUser>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct EventUser {
    /// The key of its row in `product_like`. Hashed while the batch is filled, since the database waits for the fold.
    pub(super) pair_key: Uuid,
    /// The place of the user's id in `Batch::users`.
    pub(super) start: u32,
    pub(super) length: u8,
}

/// Events in other partitions than those of their products: their producer doesn't partition as the contract says.
#[derive(Debug, PartialEq, Eq)]
pub struct Misplaced<'a> {
    pub events: u64,
    /// That of the first one.
    pub product: &'a str,
    /// Where it is, and where its product belongs.
    pub partition: i32,
    pub due: i32,
}

/// Records of one or more partitions, in log order within each.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) events: Vec<BatchEvent>,
    dead_letters: Vec<DeadLetter>,
    dead_bytes: usize,
    spans: BTreeMap<i32, Span>,
    pub(super) products: Vec<(Box<str>, ProductPrefix)>,
    product_numbers: HashMap<Box<str>, u32>,
    pub(super) users: String,
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
        let product = self.product_number(&event.product_id, || ProductPrefix::of(&event.product_id));
        let user = event.user_id.map(|user| {
            let start = self.users.len() as u32;
            self.users.push_str(&user);
            let prefix = self.products[product as usize].1;
            EventUser { pair_key: prefix.pair_key(&event.product_id, &user), start, length: user.len() as u8 }
        });
        let (id, liked) = (event.event_id.uuid(), event.liked);
        let Record { partition, offset, time, .. } = *record;
        self.events.push(BatchEvent { id, time, offset, partition, product, liked, user });
    }

    fn push_dead_letter(&mut self, record: &Record<'_>, reason: Reject) {
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(DEAD_LETTER_BYTES)].to_vec();
        let (key, payload) = (record.key.map(cut), record.value.map(cut));
        let Record { partition, offset, time, .. } = *record;
        let time = is_valid(time).then_some(time);
        let letter = DeadLetter { partition, offset, key, payload, time, reason };
        self.dead_bytes += letter.bytes();
        self.dead_letters.push(letter);
    }

    fn product_number(&mut self, product: &str, prefix: impl FnOnce() -> ProductPrefix) -> u32 {
        if let Some(number) = self.product_numbers.get(product) {
            return *number;
        }
        let number = self.products.len() as u32;
        self.products.push((product.into(), prefix()));
        self.product_numbers.insert(product.into(), number);
        number
    }

    /// Returns the number of records, dead letters included.
    pub fn len(&self) -> usize {
        self.events.len() + self.dead_letters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether it must be applied before more is added.
    pub fn is_full(&self, max_events: usize) -> bool {
        self.len() >= max_events || self.dead_bytes >= DEAD_LETTERS_BYTES
    }

    /// Returns the size of its dead letters.
    pub fn dead_bytes(&self) -> usize {
        self.dead_bytes
    }

    /// Returns whether both together are no more than a batch. There is room for any in an empty one.
    pub fn has_room_for(&self, other: &Self, max_events: usize) -> bool {
        self.is_empty()
            || self.len() + other.len() <= max_events && self.dead_bytes + other.dead_bytes <= DEAD_LETTERS_BYTES
    }

    pub fn spans(&self) -> &BTreeMap<i32, Span> {
        &self.spans
    }

    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    pub fn remove_partition(&mut self, partition: i32) {
        if self.spans.remove(&partition).is_some() {
            self.events.retain(|event| event.partition != partition);
            self.dead_letters.retain(|letter| letter.partition != partition);
        }
    }

    /// Adds the records of a batch, which come after those of its partitions here. The counts don't depend on which batch has
    /// a record.
    pub fn absorb(&mut self, mut next: Self) {
        if self.is_empty() {
            *self = next;
            return;
        }
        for event in std::mem::take(&mut next.events) {
            self.adopt(event, &next);
        }
        self.dead_letters.append(&mut next.dead_letters);
        self.dead_bytes += next.dead_bytes;
        for (partition, span) in next.spans {
            let believed = self.spans.get(&partition).map_or(span.believed, |before| before.believed);
            self.spans.insert(partition, Span { believed, ..span });
        }
    }

    /// Adds an event of the batch `from`.
    fn adopt(&mut self, mut event: BatchEvent, from: &Self) {
        let (product, prefix) = &from.products[event.product as usize];
        event.product = self.product_number(product, || *prefix);
        if let Some(user) = &mut event.user {
            let id = &from.users[user.start as usize..][..usize::from(user.length)];
            user.start = self.users.len() as u32;
            self.users.push_str(id);
        }
        self.events.push(event);
    }

    /// Splits off the second half of its records, by partition and offset; `self` keeps the first. Returns None if it has
    /// only one. The counts don't depend on where a batch is split.
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
            // More than it needs; splitting is rare.
            products: self.products.clone(),
            product_numbers: self.product_numbers.clone(),
            users: self.users.clone(),
        })
    }

    /// Returns how many of its events are in another partition than their product's, of a topic with so many; None: none.
    pub fn misplaced(&self, partitions: i32) -> Option<Misplaced<'_>> {
        let due: Vec<_> = self.products.iter().map(|(product, _)| partition(product.as_bytes(), partitions)).collect();
        let mut misplaced = self.events.iter().filter(|event| event.partition != due[event.product as usize]);
        let first = misplaced.next()?;
        let (product, due) = (self.product(first.product), due[first.product as usize]);
        Some(Misplaced { events: 1 + misplaced.count() as u64, product, partition: first.partition, due })
    }

    pub fn times(&self) -> impl Iterator<Item = Millis> {
        self.events.iter().map(|event| event.time)
    }

    /// Returns the ids of its events, sorted, each once, to look up in `event_handled`.
    pub fn event_ids(&self) -> Vec<Uuid> {
        let mut ids: Vec<_> = self.events.iter().map(|event| event.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub fn product(&self, number: u32) -> &str {
        &self.products[number as usize].0
    }
}

fn is_valid(time: Millis) -> bool {
    (0..TIME_END_MS).contains(&time)
}
