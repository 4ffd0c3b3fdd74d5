//! The log and its fold: a model of `like-aggregator/src/fold/`. The rules are just rich enough that counting twice,
//! skipping a record and applying records in the wrong order all show in the counts.

pub const PARTITIONS: usize = 2;

/// One value per partition. Each partition has one product, and one user who likes it.
pub type Each<T> = [T; PARTITIONS];

/// An event, identified by a small number.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A delta event of +1.
    Delta(u8),
    /// A user event: whether the user likes the product from now on.
    Desired(u8, bool),
}

impl Event {
    fn bit(self) -> u8 {
        match self {
            Self::Delta(id) | Self::Desired(id, _) => 1 << id,
        }
    }
}

/// `DEDUP`: drop repeats of all handled events, or only repeats within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedup {
    History,
    Batch,
}

/// The records of a batch: per partition a range of offsets, empty where both ends are equal (`Batch::spans`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch(pub Each<(u8, u8)>);

impl Batch {
    pub fn covers(self, partition: usize) -> bool {
        self.0[partition].0 != self.0[partition].1
    }

    /// The partitions that the batch covers, ascending.
    pub fn partitions(self) -> impl Iterator<Item = usize> {
        (0..PARTITIONS).filter(move |partition| self.covers(*partition))
    }

    pub fn is_empty(self) -> bool {
        self.partitions().next().is_none()
    }

    /// The batch's records of a partition, one bit each.
    pub fn records(self, partition: usize) -> u8 {
        let (from, to) = self.0[partition];
        below(to) & !below(from)
    }
}

/// The records below an offset, one bit each.
pub fn below(offset: u8) -> u8 {
    (1 << offset) - 1
}

/// What a batch writes (`Changes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    /// Ids to insert into the history, one bit each.
    pub handled: u8,
    /// The delta of each product's count.
    pub count: Each<i8>,
    /// The user's new state, where it differs from the stored one.
    pub liked: Each<Option<bool>>,
}

pub struct Log {
    records: Each<&'static [Event]>,
    dedup: Dedup,
    /// Per build and partition: count and user state after each number of records.
    reference: [Each<Vec<(i8, bool)>>; 2],
}

impl Log {
    pub fn new(dedup: Dedup, records: Each<&'static [Event]>) -> Self {
        let reference = [1, 2].map(|build| records.map(|records| reference(records, build)));
        Self { records, dedup, reference }
    }

    /// The correct count and user state after `offset` records, however they were split into batches.
    pub fn reference(&self, partition: usize, build: u8, offset: u8) -> (i8, bool) {
        self.reference[build as usize - 1][partition][offset as usize]
    }

    pub fn end(&self, partition: usize) -> u8 {
        self.records[partition].len() as u8
    }

    /// What a batch changes, given the stored ids and user states (`Batch::fold`, `Fold::changes`). Each build counts a
    /// delta event by a different number, so that mixing the folds of two builds shows.
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

/// The reference: applies one record after the other.
fn reference(records: &[Event], build: u8) -> Vec<(i8, bool)> {
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
