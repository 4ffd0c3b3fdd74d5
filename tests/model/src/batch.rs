//! The log and what it folds to: stands for `like-aggregator/src/batch.rs`, by rules just rich enough that counting
//! twice, leaving out and applying in the wrong order all show in the counts.

pub const PARTITIONS: usize = 2;

/// One value per partition. Each partition has one product, and one user who likes it.
pub type Each<T> = [T; PARTITIONS];

/// An event, by a number for its id.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A +1 that its producer vouches for.
    Delta(u8),
    /// The user likes the product from here on, or no longer.
    Wish(u8, bool),
}

impl Event {
    fn bit(self) -> u8 {
        match self {
            Self::Delta(id) | Self::Wish(id, _) => 1 << id,
        }
    }
}

/// Whether repeats are looked for among all events or within a batch only: `DEDUP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedup {
    History,
    Batch,
}

/// The records of a batch: per partition from an offset up to another, and none where they are the same.
/// `Batch::spans`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch(pub Each<(u8, u8)>);

impl Batch {
    pub fn covers(self, partition: usize) -> bool {
        self.0[partition].0 != self.0[partition].1
    }

    /// The partitions that it covers, in their order.
    pub fn partitions(self) -> impl Iterator<Item = usize> {
        (0..PARTITIONS).filter(move |partition| self.covers(*partition))
    }

    pub fn is_empty(self) -> bool {
        self.partitions().next().is_none()
    }

    /// Its records as a bit each.
    pub fn records(self, partition: usize) -> u8 {
        let (from, to) = self.0[partition];
        below(to) & !below(from)
    }
}

/// The records below an offset as a bit each.
pub fn below(offset: u8) -> u8 {
    (1 << offset) - 1
}

/// What a batch writes. `Changes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    /// Ids to be remembered, as a bit each.
    pub handled: u8,
    /// To be added to each product's count.
    pub count: Each<i8>,
    /// The user's new wish where it is another than before.
    pub liked: Each<Option<bool>>,
}

pub struct Log {
    records: Each<&'static [Event]>,
    dedup: Dedup,
    /// Per build and partition the count and the wish after each number of records.
    reference: [Each<Vec<(i8, bool)>>; 2],
}

impl Log {
    pub fn new(dedup: Dedup, records: Each<&'static [Event]>) -> Self {
        let reference = [1, 2].map(|build| records.map(|records| one_by_one(records, build)));
        Self { records, dedup, reference }
    }

    /// The count and the wish after so many records, however they were cut into batches.
    pub fn reference(&self, partition: usize, build: u8, offset: u8) -> (i8, bool) {
        self.reference[build as usize - 1][partition][offset as usize]
    }

    pub fn end(&self, partition: usize) -> u8 {
        self.records[partition].len() as u8
    }

    /// What a batch changes where these ids and wishes are in the tables: `Batch::fold`, `Fold::changes`. Each build
    /// counts a delta event by another number, so that two builds' folds don't mix unnoticed.
    pub fn fold(&self, batch: Batch, build: u8, handled: u8, liked: Each<bool>) -> Changes {
        let mut changes = Changes::default();
        let mut seen = if self.dedup == Dedup::History { handled } else { 0 };
        for partition in 0..PARTITIONS {
            let (from, to) = batch.0[partition];
            let mut last = liked[partition];
            for event in &self.records[partition][from as usize..to as usize] {
                if seen & event.bit() != 0 {
                    continue;
                }
                seen |= event.bit();
                match *event {
                    Event::Delta(_) => changes.count[partition] += build as i8,
                    Event::Wish(_, liked) => last = liked,
                }
            }
            if last != liked[partition] {
                changes.liked[partition] = Some(last);
                changes.count[partition] += if last { 1 } else { -1 };
            }
        }
        if self.dedup == Dedup::History {
            changes.handled = seen & !handled;
        }
        changes
    }
}

/// What must come out, taking one record after the other.
fn one_by_one(records: &[Event], build: u8) -> Vec<(i8, bool)> {
    let (mut count, mut liked, mut seen) = (0, false, 0);
    let mut after = vec![(count, liked)];
    for event in records {
        if seen & event.bit() == 0 {
            match *event {
                Event::Delta(_) => count += build as i8,
                Event::Wish(_, wish) => {
                    count += i8::from(wish) - i8::from(liked);
                    liked = wish;
                }
            }
        }
        seen |= event.bit();
        after.push((count, liked));
    }
    after
}
