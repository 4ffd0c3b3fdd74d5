//! PostgreSQL as far as a batch meets it: two sets of tables, transactions whose writes nobody sees before COMMIT, row
//! locks and table locks. READ COMMITTED: each statement sees what was committed when it began, and it looks its
//! tables up by name when it begins. One that waits for a row goes on with the row, of the tables it began on; one that
//! waits for a table hasn't begun.

use crate::batch::{Batch, Changes, Each, PARTITIONS, below};

/// The tables that `likes` names at first, and those that `rebuild` fills as `likes_rebuild`.
pub const OLD: u8 = 0;
pub const FRESH: u8 = 1;

/// What is committed in one schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tables {
    /// `kafka_offset`.
    pub next: Each<u8>,
    /// `fold`: the build by whose rules these tables are folded.
    pub build: u8,
    /// `event_handled`, a bit per id.
    pub handled: u8,
    /// `product_like`.
    pub liked: Each<bool>,
    /// `product_like_count`.
    pub count: Each<i8>,
    /// In no table: the records that a committed batch has folded in, and whether one was folded in by two.
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

    /// Each record below the stored offsets was folded in, and no other.
    pub fn are_folded_to_their_offsets(&self) -> bool {
        (0..PARTITIONS).all(|partition| self.folded[partition] == below(self.next[partition]))
    }
}

/// Who sends a transaction's statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A worker of `run`.
    Worker,
    /// The worker of `rebuild`: the same code on the other schema.
    Replay,
    /// Nobody any more: the process or its connection is gone, and the server will notice some time.
    Nobody,
}

/// How far a batch's transaction is: `like-aggregator/src/store.rs`, `Store::try_apply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// BEGIN, or not even connected.
    Begin,
    /// `Statements::fence` has locked the rows of the partitions before this one, and waits for its row.
    Waits(u8),
    /// All rows are locked and stand where the batch begins.
    Locked,
    /// The fold version is ours; what is to be written follows from what `handled` and `liked` have found.
    Looked,
    /// `remember`, `write_likes`, `add_counts` have answered.
    Written,
    /// `Statements::advance` has answered: COMMIT is next, or under way.
    Advanced,
    /// Rolled back: `ApplyError::Fenced` is on its way to the consumer thread.
    Fenced,
}

/// A batch on its way, and what its transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub sender: Sender,
    /// The build that sends it.
    pub build: u8,
    pub batch: Batch,
    pub stage: Stage,
    pub changes: Changes,
    /// The tables that the lock, the writes and the new offsets went to. By right they are the same.
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

    /// Rolled back: nothing is held any more, and the batch is to be sent again or given up.
    pub fn rolled_back(&self, stage: Stage) -> Self {
        Self { stage, ..Self::new(self.sender, self.build, self.batch) }
    }

    /// Holds ROW SHARE or ROW EXCLUSIVE on these tables' `kafka_offset`: what EXCLUSIVE has to wait for.
    pub fn uses_offsets(&self, tables: u8) -> bool {
        self.locked == Some(tables) || self.advanced == Some(tables)
    }

    /// Holds the lock of this row of `kafka_offset`.
    pub fn holds_offset(&self, tables: u8, partition: usize) -> bool {
        let locked = match self.stage {
            Stage::Waits(row) => partition < row as usize,
            _ => true,
        };
        self.batch.covers(partition) && (self.locked == Some(tables) && locked || self.advanced == Some(tables))
    }

    /// Has written what only one transaction at a time can write: a product's row in `product_like_count`, ids in
    /// `event_handled`.
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
