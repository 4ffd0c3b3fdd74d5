//! The log and its fold, for `like-aggregator/src/fold`: the smallest rules with which a record that
//! is counted twice, skipped or applied out of order changes a count.

pub const PARTITIONS: usize = 2;

/// One value per partition. Each partition has one product, and one user who likes it.
pub type Each<T> = [T; PARTITIONS];

/// An event; the number is its id.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A delta event: +1.
    Delta(u8),
    /// A user event: the desired state.
    Desired(u8, bool),
}

impl Event {
    fn bit(self) -> u8 {
        match self {
            Self::Delta(id) | Self::Desired(id, _) => 1 << id,
        }
    }
}

/// `DEDUP`: duplicates are found in the history, or within one batch only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedup {
    History,
    Batch,
}

/// The records of a batch: for each partition the first offset and the end. `Batch::spans`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch(pub Each<(u8, u8)>);

impl Batch {
    pub fn covers(self, partition: usize) -> bool {
        self.0[partition].0 != self.0[partition].1
    }

    pub fn partitions(self) -> impl Iterator<Item = usize> {
        (0..PARTITIONS).filter(move |partition| self.covers(*partition))
    }

    pub fn is_empty(self) -> bool {
        self.partitions().next().is_none()
    }

    /// One bit per record.
    pub fn records(self, partition: usize) -> u8 {
        let (from, to) = self.0[partition];
        below(to) & !below(from)
    }
}

/// One bit per record below an offset.
pub fn below(offset: u8) -> u8 {
    (1 << offset) - 1
}

/// The writes of a batch. `Changes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    /// One bit per id for the history.
    pub handled: u8,
    /// The change of each product's count.
    pub count: Each<i8>,
    /// The user's new state, if it changes.
    pub liked: Each<Option<bool>>,
}

pub struct Log {
    records: Each<&'static [Event]>,
    dedup: Dedup,
    /// For each build and partition: count and state after each number of records.
    reference: [Each<Vec<(i8, bool)>>; 2],
}

impl Log {
    pub fn new(dedup: Dedup, records: Each<&'static [Event]>) -> Self {
        let reference = [1, 2].map(|build| records.map(|records| one_by_one(records, build)));
        Self { records, dedup, reference }
    }

    /// Count and state after the records below `offset`, for any division into batches.
    pub fn reference(&self, partition: usize, build: u8, offset: u8) -> (i8, bool) {
        self.reference[build as usize - 1][partition][offset as usize]
    }

    pub fn end(&self, partition: usize) -> u8 {
        self.records[partition].len() as u8
    }

    /// The changes of a batch to tables with these ids and states: `Batch::fold`, `Fold::changes`. A
    /// delta event counts `build`, so that a mixture of two builds' folds shows in a count.
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
                    Event::Desired(_, liked) => last = liked,
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

/// The expected results, one record at a time.
fn one_by_one(records: &[Event], build: u8) -> Vec<(i8, bool)> {
    let (mut count, mut liked, mut seen) = (0, false, 0);
    let mut after = vec![(count, liked)];
    for event in records {
        if seen & event.bit() == 0 {
            match *event {
                Event::Delta(_) => count += build as i8,
                Event::Desired(_, desired) => {
                    count += i8::from(desired) - i8::from(liked);
                    liked = desired;
                }
            }
        }
        seen |= event.bit();
        after.push((count, liked));
    }
    after
}
