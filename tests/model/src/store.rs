//! A batch's transaction: `like-aggregator/src/store.rs`, `store/statements.rs`. A statement that has to wait is a step
//! that can't be taken yet.

use crate::batch::PARTITIONS;
use crate::model::{Part, Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{State, WORKERS, Worker};

impl System {
    /// The next statement of a transaction; false: it waits, or isn't that far.
    pub fn statement(&self, state: &mut State, step: Step, number: usize) -> bool {
        let Some(it) = state.transactions[number] else { return false };
        if matches!(step, Step::Look(_)) && number < WORKERS && self.is_of_another_build(state, &it) {
            // The process ends with `ApplyError::FoldVersion`, and a build of that version is started.
            state.transactions[number] = None;
            state.workers[number] = Worker::new(state.live().build);
            return true;
        }
        let answered = match step {
            Step::Lock(_) => self.lock(state, number, &it),
            Step::Look(_) => self.look(state, &it),
            Step::Write(_) => Self::write(state, number, &it),
            Step::Advance(_) => self.advance(state, number, &it),
            _ => unreachable!("not a statement: {step:?}"),
        };
        state.transactions[number] = answered;
        answered.is_some()
    }

    /// COMMIT was sent: it is only asked for once all statements were answered.
    pub fn commit(&self, state: &mut State, number: usize) -> bool {
        let Some(it) = state.transactions[number].take().filter(|it| it.stage == Stage::Advanced) else { return false };
        it.commit(&mut state.tables);
        if !self.has(Part::OffsetsWithTheBatch) && number < WORKERS {
            for partition in it.batch.partitions() {
                state.workers[number].to_copy[partition] = Some(it.batch.0[partition].1);
            }
        }
        true
    }

    fn row_is_free(&self, state: &State, number: usize, tables: u8, partition: usize) -> bool {
        let by_swap = !self.has(Part::TableLocks) && state.swap_holds(tables);
        !by_swap && !state.others(number).any(|other| other.holds_offset(tables, partition))
    }

    /// The tables that a statement on `kafka_offset` finds when it begins. None: it waits for the table, and will look
    /// for it by name again.
    fn offsets_for(&self, state: &State, sender: Sender) -> Option<u8> {
        let by_swap = |tables: &u8| self.has(Part::TableLocks) && state.swap_holds(*tables);
        state.named_by(sender).filter(|tables| !by_swap(tables))
    }

    /// `Statements::fence`, first statement: the rows in partition order, then what the lock has returned.
    fn lock(&self, state: &State, number: usize, it: &Transaction) -> Option<Transaction> {
        let (tables, first) = match it.stage {
            Stage::Begin => (self.offsets_for(state, it.sender)?, 0),
            Stage::Waits(row) => (it.locked?, row as usize),
            _ => return None,
        };
        let held = |partition: &usize| *partition >= first && !self.row_is_free(state, number, tables, *partition);
        if let Some(row) = it.batch.partitions().find(held) {
            let waits = Transaction { locked: Some(tables), stage: Stage::Waits(row as u8), ..*it };
            return (waits != *it).then_some(waits);
        }
        if it.batch.partitions().any(|p| state.tables[tables as usize].next[p] != it.batch.0[p].0) {
            return Some(it.rolled_back(Stage::Fenced));
        }
        Some(Transaction { locked: Some(tables), stage: Stage::Locked, ..*it })
    }

    /// `Statements::fence`, second statement.
    fn is_of_another_build(&self, state: &State, it: &Transaction) -> bool {
        self.has(Part::FoldVersion) && state.live().build != it.build
    }

    fn look(&self, state: &State, it: &Transaction) -> Option<Transaction> {
        let found = &state.tables[state.named_by(it.sender)? as usize];
        let changes = self.log.fold(it.batch, it.build, found.handled, found.liked);
        Some(Transaction { changes, stage: Stage::Looked, ..*it })
    }

    fn write(state: &State, number: usize, it: &Transaction) -> Option<Transaction> {
        let tables = state.named_by(it.sender)?;
        if state.others(number).any(|other| other.holds_counts(tables, it.changes)) {
            return None;
        }
        let found = &state.tables[tables as usize];
        let raced = |partition: usize| it.changes.liked[partition] == Some(found.liked[partition]);
        // 23505 on event_handled or product_like, or `ApplyError::Raced`: the same batch once more.
        if found.handled & it.changes.handled != 0 || (0..PARTITIONS).any(raced) {
            return Some(it.rolled_back(Stage::Begin));
        }
        Some(Transaction { written: Some(tables), stage: Stage::Written, ..*it })
    }

    /// `Statements::advance`: waits for the rows, and then looks at them as they are.
    fn advance(&self, state: &State, number: usize, it: &Transaction) -> Option<Transaction> {
        let tables = self.offsets_for(state, it.sender)?;
        for partition in it.batch.partitions() {
            if !self.row_is_free(state, number, tables, partition) {
                return None;
            }
            if self.has(Part::AskingAgain) && state.tables[tables as usize].next[partition] != it.batch.0[partition].0 {
                return Some(it.rolled_back(Stage::Fenced));
            }
        }
        Some(Transaction { advanced: Some(tables), stage: Stage::Advanced, ..*it })
    }
}
