//! The system under test, its steps and its properties, for `stateright`.

use stateright::{Model, Property};

use crate::batch::{Each, Log, PARTITIONS};
use crate::postgres::{OLD, Stage, Tables, Transaction};
use crate::state::{ORPHAN, Rebuild, State, WORKERS, Worker};

/// The system under test.
pub struct System {
    pub log: Log,
    /// The number of workers.
    pub workers: usize,
    /// The workers are lanes of one process, the first one, and share its positions.
    pub lanes: bool,
    /// The build that runs `rebuild`, if any. Workers are of build 1.
    pub rebuild: Option<u8>,
    /// How often the group may move a partition.
    pub moves: u8,
    /// How many faults may happen: a lost connection, a crash, a swap that is given up.
    pub faults: u8,
    /// The safeguards that are taken out.
    pub without: &'static [Part],
}

/// A safeguard that can be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The fence locks the offset rows and compares them with the batch.
    Fence,
    /// The fence compares the fold version.
    FoldVersion,
    /// The update of the offsets checks the expected offsets again.
    OffsetRecheck,
    /// The swap locks the offset tables. Without it, the swap locks their rows.
    TableLocks,
    /// Offsets are committed with the batch. Without it, they are committed to Kafka afterwards.
    OffsetsInTransaction,
}

/// A step. Workers and transactions are given by number, then the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The group coordinator gives a partition to a worker, after a join, a leave or a session timeout.
    Move { partition: usize, to: usize },
    /// The worker learns that it owns the partition (`consume/assignment.rs`).
    Assigned(usize, usize),
    /// The worker learns that the partition is revoked.
    Revoked(usize, usize),
    /// The worker reads the stored offsets of the partitions that await theirs.
    Offsets(usize),
    /// The worker sends a batch with this many records of each partition.
    SendBatch(usize, Each<u8>),
    /// The worker or the replay rewinds after its batch was fenced.
    Rewind(usize),
    /// The worker gives up a batch because one of its partitions was revoked (`apply/worker.rs`).
    GiveUp(usize),
    /// The partitions in flight wait for their stored offsets, so that other lanes have room (`consume/thread.rs`, `hold`).
    Hold(usize),
    /// The worker copies its offsets to Kafka (`consume/offset_report.rs`).
    Copy(usize),
    /// BEGIN and the lock of the offset rows (`apply/sql.rs`, `fence`), up to the first row that is locked by another.
    Lock(usize),
    /// Reads the fold settings, the handled ids and the user states.
    Read(usize),
    /// Inserts the ids, writes user states and counts.
    Write(usize),
    /// Updates the offsets (`apply/sql.rs`, `advance`).
    Advance(usize),
    /// COMMIT. The answer to an orphaned transaction is lost.
    Commit(usize),
    /// The connection is lost, or the server ends it: a lock timeout, or a process stopped in mid-transaction. The worker
    /// sends the same batch again.
    Disconnect(usize),
    /// The server notices that the sender of the orphaned transaction is gone.
    RollBack,
    /// The process is killed and another one starts in its place.
    Crash(usize),
    /// The replay folds up to the live offsets. One step, because nothing else reads the shadow tables.
    Round,
    /// The swap locks the live offsets and reads them (`commands/rebuild/swap.rs`).
    LockLive,
    /// The replay folds the rest, in one batch.
    FoldRest,
    /// The swap locks the shadow offsets once everything is folded.
    LockShadow,
    /// The swap checks the offsets again, renames the schemas and commits.
    Rename,
    /// The swap is given up: a lock was not granted, or the rest took too long.
    SwapGivenUp,
    /// The process of the rebuild dies.
    RebuildCrash,
}

pub const FOLDED_ONCE: &str = "no record is folded in twice";
pub const NONE_LEFT_OUT: &str = "no record is left out below the stored offset, none is folded in above";
pub const FOLD: &str = "counts and likes are what the log folds to up to the stored offsets";
pub const END: &str = "counts and likes are right once the log is folded to its end";
pub const NEVER_BACK: &str = "no stored offset and no receipt goes back";

impl System {
    pub fn has(&self, part: Part) -> bool {
        !self.without.contains(&part)
    }

    /// The process of a worker.
    pub fn process(&self, worker: usize) -> usize {
        if self.lanes && worker < WORKERS { 0 } else { worker }
    }

    fn is_counted(&self, state: &State) -> bool {
        (0..PARTITIONS).all(|partition| state.live().next[partition] == self.log.end(partition))
    }

    fn is_fold(&self, tables: &Tables) -> bool {
        (0..PARTITIONS)
            .all(|p| (tables.count[p], tables.liked[p]) == self.log.reference(p, tables.build, tables.next[p]))
    }
}

impl Model for System {
    type State = State;
    type Action = Step;

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(FOLDED_ONCE, |_, state: &State| !state.live().folded_twice),
            Property::always(NONE_LEFT_OUT, |_, state: &State| state.live().are_folded_to_their_offsets()),
            Property::always(FOLD, |system: &Self, state: &State| system.is_fold(state.live())),
            Property::always(END, |system: &Self, state: &State| {
                !system.is_counted(state) || system.is_fold(state.live())
            }),
            Property::always(NEVER_BACK, |_, state: &State| !state.offset_went_back),
            // `eventually` is exact: the step graph has no cycle (tests.rs), and counted stays counted.
            Property::eventually(
                "everything is counted, and the rebuild is done or dead",
                |system: &Self, state: &State| {
                    system.is_counted(state) && matches!(state.rebuild, Rebuild::Swapped | Rebuild::NotRunning)
                },
            ),
            // From here on: the model reaches the situations that it is about.
            Property::sometimes("a batch is fenced", |_, state: &State| {
                state.transactions.iter().flatten().any(|tx| tx.stage == Stage::Fenced)
            }),
            Property::sometimes("a batch waits for another one's row", |_, state: &State| {
                state.transactions.iter().flatten().any(|tx| matches!(tx.stage, Stage::Waiting(_)))
            }),
        ];
        if self.lanes {
            properties.push(Property::sometimes("both lanes hold locks", |_, state: &State| {
                state.transactions[..WORKERS].iter().all(|tx| tx.is_some_and(|tx| tx.stage == Stage::Written))
            }));
        } else if self.workers > 1 {
            properties.push(Property::sometimes("two workers believe to own a partition", |_, state: &State| {
                (0..PARTITIONS).any(|partition| state.workers.iter().all(|worker| worker.position[partition].is_some()))
            }));
        }
        if self.rebuild.is_some() {
            properties.push(Property::sometimes("a batch waits for the swap", |_, state: &State| {
                let waits = |tx: &Transaction| tx.stage == Stage::Begin;
                state.swap_holds(OLD) && state.transactions[..WORKERS].iter().flatten().any(waits)
            }));
            properties.push(Property::sometimes(
                "the swap is done and everything is counted",
                |system: &Self, state: &State| state.rebuild == Rebuild::Swapped && system.is_counted(state),
            ));
        }
        if self.rebuild.is_some_and(|build| build > 1) {
            properties.push(Property::sometimes("a worker of the old build stops", |_, state: &State| {
                state.workers.iter().any(|worker| worker.build > 1)
            }));
        }
        properties
    }

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tables: [Tables::new(1), Tables::new(self.rebuild.unwrap_or(1))],
            live: OLD,
            offset_went_back: false,
            owner: [0; PARTITIONS],
            in_kafka: [0; PARTITIONS],
            workers: [Worker::new(1); WORKERS],
            transactions: [None; WORKERS + 2],
            rebuild: if self.rebuild.is_some() { Rebuild::Filling } else { Rebuild::NotRunning },
            moves: self.moves,
            faults: self.faults,
        }]
    }

    /// Candidate steps; `next_state` decides which are possible.
    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for worker in 0..self.workers {
            for partition in (0..PARTITIONS).filter(|p| self.log.end(*p) > 0) {
                steps.extend([
                    Step::Move { partition, to: worker },
                    Step::Assigned(worker, partition),
                    Step::Revoked(worker, partition),
                ]);
            }
            steps.extend([Step::Offsets(worker), Step::GiveUp(worker), Step::Copy(worker), Step::Crash(worker)]);
            steps.push(Step::Hold(worker));
            for first in 0..=self.log.end(0) {
                steps.extend((0..=self.log.end(1)).map(|second| Step::SendBatch(worker, [first, second])));
            }
        }
        for number in 0..state.transactions.len() {
            let Some(tx) = state.transactions[number] else { continue };
            steps.push(match tx.stage {
                Stage::Begin if self.has(Part::Fence) => Step::Lock(number),
                Stage::Waiting(_) => Step::Lock(number),
                Stage::Begin | Stage::Locked => Step::Read(number),
                Stage::HasRead => Step::Write(number),
                Stage::Written => Step::Advance(number),
                Stage::Advanced => Step::Commit(number),
                Stage::Fenced => Step::Rewind(number),
            });
            steps.push(if number == ORPHAN { Step::RollBack } else { Step::Disconnect(number) });
        }
        if self.rebuild.is_some() {
            steps.extend([Step::Round, Step::LockLive, Step::FoldRest, Step::LockShadow, Step::Rename]);
            steps.extend([Step::SwapGivenUp, Step::RebuildCrash]);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = *before;
        let possible = match step {
            Step::Lock(number) | Step::Read(number) | Step::Write(number) | Step::Advance(number) => {
                self.statement(&mut state, step, number)
            }
            Step::Commit(number) => self.commit(&mut state, number),
            Step::Disconnect(_) | Step::RollBack | Step::Crash(_) | Step::SwapGivenUp | Step::RebuildCrash => {
                self.fault(&mut state, step)
            }
            Step::Round | Step::LockLive | Step::FoldRest | Step::LockShadow | Step::Rename => {
                self.rebuild_step(&mut state, step)
            }
            _ => self.consumer_step(&mut state, step),
        };
        let goes_back = |partition: usize| state.live().next[partition] < before.live().next[partition];
        state.offset_went_back |= (0..PARTITIONS).any(goes_back);
        possible.then_some(state)
    }
}
