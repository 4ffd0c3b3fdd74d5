//! PostgreSQL as far as a batch depends on it: two schemas, transactions whose writes are invisible until COMMIT, row
//! locks and table locks. READ COMMITTED: each statement sees what was committed when it began, and resolves table names
//! when it begins. A statement that waited for a row continues on the table where it began; one that waits for a table
//! has not begun.

use crate::batch::{Batch, Changes, Each, PARTITIONS, below};

/// The schema named `likes` at first, and the one that `rebuild` fills.
pub const OLD: u8 = 0;
pub const SHADOW: u8 = 1;

/// What is committed in one schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    /// `kafka_offset`.
    pub next: Each<u8>,
    /// `fold`: the build whose rules fold these tables.
    pub build: u8,
    /// `event_handled`, a bit per id.
    pub handled: u8,
    /// `product_like`.
    pub liked: Each<bool>,
    /// `product_like_count`.
    pub count: Each<i8>,
    /// Bookkeeping of the model: which records committed batches have folded, and whether one was folded twice.
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

    /// Exactly the records below the stored offsets were folded.
    pub fn are_folded_to_their_offsets(&self) -> bool {
        (0..PARTITIONS).all(|partition| self.folded[partition] == below(self.next[partition]))
    }
}

/// Who sends a transaction's statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A worker of `run`.
    Worker,
    /// The worker of `rebuild`: the same code on the shadow schema.
    Replay,
    /// The process or its connection is gone, and the server has not noticed yet.
    Orphaned,
}

/// The progress of a batch's transaction (`apply/transaction.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before or at BEGIN.
    Begin,
    /// The rows of earlier partitions are locked; this partition's row is locked by another transaction.
    Waiting(u8),
    /// All rows are locked and hold the offsets where the batch begins.
    Locked,
    /// The fold version matches; handled ids and user states are read.
    HasRead,
    /// Ids, user states and counts are written.
    Written,
    /// The offsets are updated: COMMIT is next or under way.
    Advanced,
    /// Rolled back; the consumer thread does not know yet.
    Fenced,
}

/// A batch in flight and the locks of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub sender: Sender,
    /// The build that sends it.
    pub build: u8,
    pub batch: Batch,
    pub stage: Stage,
    pub changes: Changes,
    /// The schemas that the lock, the writes and the new offsets went to: the same one when everything is right.
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

    /// Rolled back: all locks are released.
    pub fn rolled_back(&self, stage: Stage) -> Self {
        Self { stage, ..Self::new(self.sender, self.build, self.batch) }
    }

    /// Holds ROW SHARE or ROW EXCLUSIVE on `kafka_offset`, which an EXCLUSIVE lock has to wait for.
    pub fn uses_offsets(&self, tables: u8) -> bool {
        self.locked == Some(tables) || self.advanced == Some(tables)
    }

    /// Holds the lock of this row of `kafka_offset`.
    pub fn holds_offset(&self, tables: u8, partition: usize) -> bool {
        let locked = match self.stage {
            Stage::Waiting(row) => partition < row as usize,
            _ => true,
        };
        self.batch.covers(partition) && (self.locked == Some(tables) && locked || self.advanced == Some(tables))
    }

    /// Has written a row that only one transaction at a time can write: a product's count, or an id in `event_handled`.
    pub fn holds_counts(&self, tables: u8, changes: Changes) -> bool {
        let same = |p: usize| self.changes.count[p] != 0 && changes.count[p] != 0;
        self.written == Some(tables) && (self.changes.handled & changes.handled != 0 || (0..PARTITIONS).any(same))
    }

    /// COMMIT.
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
