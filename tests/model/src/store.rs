//! A batch's transaction: a model of `like-aggregator/src/apply/{transaction,sql}.rs`. A statement that waits is a step
//! that is not possible yet.

use crate::batch::PARTITIONS;
use crate::model::{Part, Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{State, WORKERS, Worker};

impl System {
    /// The next statement of a transaction. Returns false when it waits or isn't due.
    pub fn statement(&self, state: &mut State, step: Step, number: usize) -> bool {
        let Some(tx) = state.transactions[number] else { return false };
        if matches!(step, Step::Read(_)) && number < WORKERS && self.is_of_another_build(state, &tx) {
            // The process exits with a fold version error, and a build of that version starts.
            state.transactions[number] = None;
            state.workers[self.process(number)] = Worker::new(state.live().build);
            return true;
        }
        let after = match step {
            Step::Lock(_) => self.lock(state, number, &tx),
            Step::Read(_) => self.read(state, &tx),
            Step::Write(_) => Self::write(state, number, &tx),
            Step::Advance(_) => self.advance(state, number, &tx),
            _ => unreachable!("not a statement: {step:?}"),
        };
        state.transactions[number] = after;
        after.is_some()
    }

    /// COMMIT, sent once all statements were answered.
    pub fn commit(&self, state: &mut State, number: usize) -> bool {
        let Some(tx) = state.transactions[number].take().filter(|tx| tx.stage == Stage::Advanced) else { return false };
        tx.commit(&mut state.tables);
        if !self.has(Part::OffsetsInTransaction) && number < WORKERS {
            for partition in tx.batch.partitions() {
                state.workers[self.process(number)].to_copy[partition] = Some(tx.batch.0[partition].1);
            }
        }
        true
    }

    fn row_is_free(&self, state: &State, number: usize, tables: u8, partition: usize) -> bool {
        let by_swap = !self.has(Part::TableLocks) && state.swap_holds(tables);
        !by_swap && !state.others(number).any(|other| other.holds_offset(tables, partition))
    }

    /// The schema that a statement on `kafka_offset` uses. None: it waits for the table, and resolves the name again.
    fn offsets_for(&self, state: &State, sender: Sender) -> Option<u8> {
        let by_swap = |tables: &u8| self.has(Part::TableLocks) && state.swap_holds(*tables);
        state.named_by(sender).filter(|tables| !by_swap(tables))
    }

    /// The fence's first statement: locks the rows in partition order and compares the offsets.
    fn lock(&self, state: &State, number: usize, tx: &Transaction) -> Option<Transaction> {
        let (tables, first) = match tx.stage {
            Stage::Begin => (self.offsets_for(state, tx.sender)?, 0),
            Stage::Waiting(row) => (tx.locked?, row as usize),
            _ => return None,
        };
        let held = |partition: &usize| *partition >= first && !self.row_is_free(state, number, tables, *partition);
        if let Some(row) = tx.batch.partitions().find(held) {
            let waits = Transaction { locked: Some(tables), stage: Stage::Waiting(row as u8), ..*tx };
            return (waits != *tx).then_some(waits);
        }
        if tx.batch.partitions().any(|p| state.tables[tables as usize].next[p] != tx.batch.0[p].0) {
            return Some(tx.rolled_back(Stage::Fenced));
        }
        Some(Transaction { locked: Some(tables), stage: Stage::Locked, ..*tx })
    }

    /// The fence's second statement.
    fn is_of_another_build(&self, state: &State, tx: &Transaction) -> bool {
        self.has(Part::FoldVersion) && state.live().build != tx.build
    }

    fn read(&self, state: &State, tx: &Transaction) -> Option<Transaction> {
        let found = &state.tables[state.named_by(tx.sender)? as usize];
        let changes = self.log.fold(tx.batch, tx.build, found.handled, found.liked);
        Some(Transaction { changes, stage: Stage::HasRead, ..*tx })
    }

    fn write(state: &State, number: usize, tx: &Transaction) -> Option<Transaction> {
        let tables = state.named_by(tx.sender)?;
        if state.others(number).any(|other| other.holds_counts(tables, tx.changes)) {
            return None;
        }
        let found = &state.tables[tables as usize];
        let raced = |partition: usize| tx.changes.liked[partition] == Some(found.liked[partition]);
        // 23505 on our keys: the same batch is applied again.
        if found.handled & tx.changes.handled != 0 || (0..PARTITIONS).any(raced) {
            return Some(tx.rolled_back(Stage::Begin));
        }
        Some(Transaction { written: Some(tables), stage: Stage::Written, ..*tx })
    }

    /// The update of the offsets: waits for the rows, then reads their latest version.
    fn advance(&self, state: &State, number: usize, tx: &Transaction) -> Option<Transaction> {
        let tables = self.offsets_for(state, tx.sender)?;
        for partition in tx.batch.partitions() {
            if !self.row_is_free(state, number, tables, partition) {
                return None;
            }
            if self.has(Part::OffsetRecheck) && state.tables[tables as usize].next[partition] != tx.batch.0[partition].0
            {
                return Some(tx.rolled_back(Stage::Fenced));
            }
        }
        Some(Transaction { advanced: Some(tables), stage: Stage::Advanced, ..*tx })
    }
}
