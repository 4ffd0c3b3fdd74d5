//! PostgreSQL: two sets of tables, transactions, row locks and table locks. READ COMMITTED: a statement
//! resolves its tables by name when it begins and sees what is committed then. A statement that has
//! waited for a row lock continues with that row of the same tables; one that waits for a table lock
//! has not begun.

use crate::batch::{Batch, Changes, Each, PARTITIONS, below};

/// The schema that is `likes` at the start, and the shadow schema of `rebuild`.
pub const OLD: u8 = 0;
pub const FRESH: u8 = 1;

/// The committed content of one schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    /// `kafka_offset`.
    pub next: Each<u8>,
    /// `fold`: the build whose rules made this content.
    pub build: u8,
    /// `event_handled`: one bit per id.
    pub handled: u8,
    /// `product_like`.
    pub liked: Each<bool>,
    /// `product_like_count`.
    pub count: Each<i8>,
    /// For the properties, in no table: the folded records, and whether one was folded twice.
    pub folded: Each<u8>,
    pub folded_twice: bool,
}

impl Tables {
    pub fn new(build: u8) -> Self {
        Self {
            next: [0; PARTITIONS],
            build,
            handled: 0,
            liked: [false; PARTITIONS],
            count: [0; PARTITIONS],
            folded: [0; PARTITIONS],
            folded_twice: false,
        }
    }

    /// Whether exactly the records below the stored offsets are folded.
    pub fn are_folded_to_their_offsets(&self) -> bool {
        (0..PARTITIONS).all(|partition| self.folded[partition] == below(self.next[partition]))
    }
}

/// The client of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A worker of `run`.
    Worker,
    /// The worker of `rebuild`: the same code on the shadow schema.
    Replay,
    /// None: the process or its connection is gone, and the server has not detected it yet.
    Gone,
}

/// Progress of a batch's transaction: `like-aggregator/src/apply/transaction.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the first lock.
    Begin,
    /// `Statements::fence` has locked the rows before this partition and waits for its row.
    Waits(u8),
    /// All rows are locked and hold the batch's first offsets.
    Locked,
    /// The fold version matches, and `changes` are computed.
    Looked,
    /// `remember`, `write_likes` and `add_counts` are done.
    Written,
    /// `Statements::advance` is done: COMMIT is next, or on its way.
    Advanced,
    /// Rolled back; the consumer thread will rewind.
    Fenced,
}

/// A batch in flight and its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub sender: Sender,
    pub build: u8,
    pub batch: Batch,
    pub stage: Stage,
    pub changes: Changes,
    /// The tables that were locked, written and advanced. They should be the same.
    pub locked: Option<u8>,
    pub written: Option<u8>,
    pub advanced: Option<u8>,
}

impl Transaction {
    pub fn new(sender: Sender, build: u8, batch: Batch) -> Self {
        Self {
            sender,
            build,
            batch,
            stage: Stage::Begin,
            changes: Changes::default(),
            locked: None,
            written: None,
            advanced: None,
        }
    }

    /// The batch after a rollback: no locks, no changes.
    pub fn rolled_back(&self, stage: Stage) -> Self {
        Self { stage, ..Self::new(self.sender, self.build, self.batch) }
    }

    /// Whether it holds a lock on `kafka_offset` for which EXCLUSIVE has to wait.
    pub fn uses_offsets(&self, tables: u8) -> bool {
        self.locked == Some(tables) || self.advanced == Some(tables)
    }

    /// Whether it holds the lock of this row of `kafka_offset`.
    pub fn holds_offset(&self, tables: u8, partition: usize) -> bool {
        let locked = match self.stage {
            Stage::Waits(row) => partition < row as usize,
            _ => true,
        };
        self.batch.covers(partition) && (self.locked == Some(tables) && locked || self.advanced == Some(tables))
    }

    /// Whether it has written a row that `changes` would write too: a product's count, or an id.
    pub fn holds_counts(&self, tables: u8, changes: Changes) -> bool {
        let same = |p: usize| self.changes.count[p] != 0 && changes.count[p] != 0;
        self.written == Some(tables) && (self.changes.handled & changes.handled != 0 || (0..PARTITIONS).any(same))
    }

    pub fn commit(&self, tables: &mut [Tables; 2]) {
        let written = &mut tables[self.written.expect("written before") as usize];
        written.handled |= self.changes.handled;
        for partition in 0..PARTITIONS {
            let records = self.batch.records(partition);
            written.count[partition] += self.changes.count[partition];
            written.liked[partition] = self.changes.liked[partition].unwrap_or(written.liked[partition]);
            written.folded_twice |= written.folded[partition] & records != 0;
            written.folded[partition] |= records;
        }
        let advanced = &mut tables[self.advanced.expect("advanced before") as usize];
        for partition in 0..PARTITIONS {
            if self.batch.covers(partition) {
                advanced.next[partition] = self.batch.0[partition].1;
            }
        }
    }
}
