//! The steps and the properties of the model, as stateright's `Model`.

use stateright::{Model, Property};

use crate::batch::{Each, Log, PARTITIONS};
use crate::postgres::{OLD, Stage, Tables, Transaction};
use crate::state::{LEFT, Rebuild, State, WORKERS, Worker};

/// One configuration of the model.
pub struct System {
    pub log: Log,
    /// The number of workers that take part.
    pub workers: usize,
    /// The build of `rebuild`, if it runs. Workers are of build 1.
    pub rebuild: Option<u8>,
    /// Bound on moves of partitions between workers.
    pub moves: u8,
    /// Bound on lost connections, crashes and abandoned swaps.
    pub faults: u8,
    /// Safeguards that are switched off.
    pub without: &'static [Part],
}

/// A safeguard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `Statements::fence` locks the offsets and compares them.
    Fence,
    /// `Statements::fence` compares the fold version.
    FoldVersion,
    /// `Statements::advance` compares the offset again.
    SecondCheck,
    /// The swap locks the offset tables; without: their rows.
    TableLocks,
    /// Stored offsets are committed with the batch; without: to Kafka, after it.
    OffsetsWithTheBatch,
}

/// A step. The first number is a worker or a transaction, the second a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The group coordinator moves the partition to another worker.
    Move { partition: usize, to: usize },
    /// The worker learns that it owns the partition.
    Assigned(usize, usize),
    /// The worker learns that it no longer owns the partition.
    Revoked(usize, usize),
    /// The worker reads the stored offsets of its new partitions: `Store::offsets`.
    Offsets(usize),
    /// The consumer thread hands a batch with this many records per partition to the worker task.
    SendOff(usize, Each<u8>),
    /// The consumer thread rewinds the partitions of a fenced batch.
    Rewind(usize),
    /// The worker task drops a batch because one of its partitions was revoked.
    GiveUp(usize),
    /// The consumer thread commits offsets to Kafka.
    Copy(usize),
    /// BEGIN and the first statement of `Statements::fence`, up to the first row it has to wait for.
    Lock(usize),
    /// `turn::FOLD_AND_TURN`, `Statements::handled`, `Statements::liked`
    Look(usize),
    /// `Statements::remember`, `write_likes`, `add_counts`
    Write(usize),
    /// `Statements::advance`
    Advance(usize),
    /// COMMIT, also of a transaction whose client is gone.
    Commit(usize),
    /// The connection is lost, or the server ends it (lock timeout, idle in transaction). The worker
    /// task tries the same batch again.
    Disconnect(usize),
    /// The server detects that the client of a transaction is gone.
    RollBack,
    /// The process is killed, and another one is started.
    Crash(usize),
    /// The rebuild folds up to the live offsets. One step: no other process uses the shadow schema.
    Round,
    /// The swap locks and reads the live offsets.
    LockLive,
    /// The replay folds the remaining records in one batch.
    Refold,
    /// The swap locks the shadow schema's offsets once they have caught up.
    LockFresh,
    /// The swap compares the offsets again, renames and commits.
    Rename,
    /// The swap is abandoned: a lock or the remaining records took too long.
    NotYet,
    /// The rebuild's process dies.
    RebuildDies,
}

pub const FOLDED_ONCE: &str = "no record is folded twice";
pub const EXACTLY_BELOW: &str = "exactly the records below the stored offset are folded";
pub const FOLD: &str = "counts and likes are the fold of the log up to the stored offsets";
pub const END: &str = "counts and likes are right at the end of the log";
pub const NEVER_BACK: &str = "no stored offset, and so no receipt, goes back";

impl System {
    pub fn has(&self, part: Part) -> bool {
        !self.without.contains(&part)
    }

    fn is_folded(&self, state: &State) -> bool {
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
            Property::always(EXACTLY_BELOW, |_, state: &State| state.live().are_folded_to_their_offsets()),
            Property::always(FOLD, |system: &Self, state: &State| system.is_fold(state.live())),
            Property::always(END, |system: &Self, state: &State| {
                !system.is_folded(state) || system.is_fold(state.live())
            }),
            Property::always(NEVER_BACK, |_, state: &State| !state.went_back),
            // stateright's `eventually` is exact here: there are no cycles of states (tests.rs).
            Property::eventually(
                "the log is folded, and the rebuild has swapped or died",
                |system: &Self, state: &State| {
                    system.is_folded(state) && matches!(state.rebuild, Rebuild::Swapped | Rebuild::Gone)
                },
            ),
            // The rest shows that the interesting situations are reachable.
            Property::sometimes("a batch is fenced", |_, state: &State| {
                state.transactions.iter().flatten().any(|it| it.stage == Stage::Fenced)
            }),
            Property::sometimes("a batch waits for another's row lock", |_, state: &State| {
                state.transactions.iter().flatten().any(|it| matches!(it.stage, Stage::Waits(_)))
            }),
        ];
        if self.workers > 1 {
            properties.push(Property::sometimes("two workers believe to own a partition", |_, state: &State| {
                (0..PARTITIONS).any(|partition| state.workers.iter().all(|worker| worker.position[partition].is_some()))
            }));
        }
        if self.rebuild.is_some() {
            properties.push(Property::sometimes("a batch waits for the swap", |_, state: &State| {
                let waits = |it: &Transaction| it.stage == Stage::Begin;
                state.swap_holds(OLD) && state.transactions[..WORKERS].iter().flatten().any(waits)
            }));
            properties.push(Property::sometimes(
                "the rebuild has swapped, and the log is folded",
                |system: &Self, state: &State| state.rebuild == Rebuild::Swapped && system.is_folded(state),
            ));
        }
        if self.rebuild.is_some_and(|build| build > 1) {
            properties.push(Property::sometimes("a worker of the old build is replaced", |_, state: &State| {
                state.workers.iter().any(|worker| worker.build > 1)
            }));
        }
        properties
    }

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tables: [Tables::new(1), Tables::new(self.rebuild.unwrap_or(1))],
            live: OLD,
            went_back: false,
            owner: [0; PARTITIONS],
            in_kafka: [0; PARTITIONS],
            workers: [Worker::new(1); WORKERS],
            transactions: [None; WORKERS + 2],
            rebuild: if self.rebuild.is_some() { Rebuild::Filling } else { Rebuild::Gone },
            moves: self.moves,
            faults: self.faults,
        }]
    }

    /// A superset of the possible steps; `next_state` rejects the others.
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
            for first in 0..=self.log.end(0) {
                steps.extend((0..=self.log.end(1)).map(|second| Step::SendOff(worker, [first, second])));
            }
        }
        for number in 0..state.transactions.len() {
            let Some(it) = state.transactions[number] else { continue };
            steps.push(match it.stage {
                Stage::Begin if self.has(Part::Fence) => Step::Lock(number),
                Stage::Waits(_) => Step::Lock(number),
                Stage::Begin | Stage::Locked => Step::Look(number),
                Stage::Looked => Step::Write(number),
                Stage::Written => Step::Advance(number),
                Stage::Advanced => Step::Commit(number),
                Stage::Fenced => Step::Rewind(number),
            });
            steps.push(if number == LEFT { Step::RollBack } else { Step::Disconnect(number) });
        }
        if self.rebuild.is_some() {
            steps.extend([Step::Round, Step::LockLive, Step::Refold, Step::LockFresh, Step::Rename]);
            steps.extend([Step::NotYet, Step::RebuildDies]);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = *before;
        let taken = match step {
            Step::Lock(number) | Step::Look(number) | Step::Write(number) | Step::Advance(number) => {
                self.statement(&mut state, step, number)
            }
            Step::Commit(number) => self.commit(&mut state, number),
            Step::Disconnect(_) | Step::RollBack | Step::Crash(_) | Step::NotYet | Step::RebuildDies => {
                Self::fault(&mut state, step)
            }
            Step::Round | Step::LockLive | Step::Refold | Step::LockFresh | Step::Rename => {
                self.rebuild_step(&mut state, step)
            }
            _ => self.consumer_step(&mut state, step),
        };
        let goes_back = |partition: usize| state.live().next[partition] < before.live().next[partition];
        state.went_back |= (0..PARTITIONS).any(goes_back);
        taken.then_some(state)
    }
}
