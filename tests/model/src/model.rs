//! What is modelled and what must hold: the model as `stateright` takes it.

use stateright::{Model, Property};

use crate::batch::{Each, Log, PARTITIONS};
use crate::postgres::{OLD, Stage, Tables, Transaction};
use crate::state::{LEFT, Rebuild, State, WORKERS, Worker};

/// What is modelled.
pub struct System {
    pub log: Log,
    /// How many of the workers take part.
    pub workers: usize,
    /// The build that `rebuild` is run with, if it is run. The workers are of build 1.
    pub rebuild: Option<u8>,
    /// How often the group may move a partition.
    pub moves: u8,
    /// How often a connection is lost, a process dies or a swap is given up.
    pub faults: u8,
    /// What is taken out.
    pub without: &'static [Part],
}

/// What can be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `Statements::fence` locks the offsets and compares them.
    Fence,
    /// Then it compares the fold version.
    FoldVersion,
    /// `Statements::advance` asks for the believed offset once more.
    AskingAgain,
    /// The swap locks the tables of offsets; without: their rows.
    TableLocks,
    /// Where partitions are started from is committed with the batch; without: to Kafka, after it.
    OffsetsWithTheBatch,
}

/// A step. Workers and transactions by number, then a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The group's coordinator gives the partition to a worker: somebody joined, left, or was thought dead.
    Move { partition: usize, to: usize },
    /// The worker hears that the partition is its own: `consumer/partitions.rs`, `rebalance`.
    Assigned(usize, usize),
    /// It hears that the partition no longer is: `give_back`.
    Revoked(usize, usize),
    /// It is told where its wanted partitions stand: `Store::offsets`, `consumer/partitions.rs`, `start`.
    Offsets(usize),
    /// It sends off what it has collected, so many records of each partition: `consumer/collect.rs`, `take`;
    /// `consumer.rs`, `send_off`.
    SendOff(usize, Each<u8>),
    /// A fenced batch: `Answer::StartAnew`, `consumer.rs`, `answered`; for the replay `replay/reader.rs`, `stand`.
    StartAnew(usize),
    /// It stops trying, since a partition of the batch was given back: `worker.rs`, `apply_part`, `given_up`.
    GiveUp(usize),
    /// `consumer/bookkeeping.rs`, `copy_offsets`
    Copy(usize),
    /// BEGIN and the first statement of `Statements::fence`, or as far as it gets without waiting.
    Lock(usize),
    /// `turn::FOLD_AND_TURN`, `Statements::handled`, `Statements::liked`
    Look(usize),
    /// `Statements::remember`, `write_likes`, `add_counts`
    Write(usize),
    /// `Statements::advance`
    Advance(usize),
    /// COMMIT; the answer to one that was left behind reaches nobody.
    Commit(usize),
    /// The connection is lost, or the server ends it: a lock that was waited for too long, a process that was stopped in
    /// mid-transaction. `worker.rs`, `apply_part` sends the same batch again.
    Disconnect(usize),
    /// The server notices that the sender of a transaction is gone.
    RollBack,
    /// The process is killed, and another one started in its place: `commands/run.rs`.
    Crash(usize),
    /// `commands/rebuild.rs`, `fill_and_swap`: a round up to where the live tables stand. In one step: nobody else
    /// looks at the fresh tables.
    Round,
    /// `rebuild/swap.rs`, `try_it`: locks the live offsets and reads them.
    LockLive,
    /// It has what is left folded: `replay.rs`, `fold`, in one batch.
    Refold,
    /// It locks the fresh offsets when all is folded.
    LockFresh,
    /// It looks once more, renames, commits.
    Rename,
    /// `rebuild/swap.rs`, `attempt`: not swapped yet. A lock was not to be had or what was left took too long.
    NotYet,
    /// The rebuild's process dies.
    RebuildDies,
}

pub const FOLDED_ONCE: &str = "no record is folded in twice";
pub const NONE_LEFT_OUT: &str = "no record is left out below the stored offset, none is folded in above";
pub const FOLD: &str = "counts and likes are what the log folds to up to the stored offsets";
pub const END: &str = "counts and likes are right once the log is folded to its end";
pub const NEVER_BACK: &str = "no stored offset goes back, and so no receipt";

impl System {
    pub fn has(&self, part: Part) -> bool {
        !self.without.contains(&part)
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
            Property::always(NEVER_BACK, |_, state: &State| !state.went_back),
            // Exact, since no way leads in a circle (tests.rs) and what is counted stays counted.
            Property::eventually(
                "all is counted, and the rebuild is through or dead",
                |system: &Self, state: &State| {
                    system.is_counted(state) && matches!(state.rebuild, Rebuild::Swapped | Rebuild::Gone)
                },
            ),
            // From here on: that the model can come to what it is about.
            Property::sometimes("a batch is fenced", |_, state: &State| {
                state.transactions.iter().flatten().any(|it| it.stage == Stage::Fenced)
            }),
            Property::sometimes("a batch waits for another one's row", |_, state: &State| {
                state.transactions.iter().flatten().any(|it| matches!(it.stage, Stage::Waits(_)))
            }),
        ];
        if self.workers > 1 {
            properties.push(Property::sometimes("two take a partition for their own", |_, state: &State| {
                (0..PARTITIONS).any(|partition| state.workers.iter().all(|worker| worker.position[partition].is_some()))
            }));
        }
        if self.rebuild.is_some() {
            properties.push(Property::sometimes("a batch waits for the swap", |_, state: &State| {
                let waits = |it: &Transaction| it.stage == Stage::Begin;
                state.swap_holds(OLD) && state.transactions[..WORKERS].iter().flatten().any(waits)
            }));
            properties.push(Property::sometimes(
                "the swap is through, and all is counted",
                |system: &Self, state: &State| state.rebuild == Rebuild::Swapped && system.is_counted(state),
            ));
        }
        if self.rebuild.is_some_and(|build| build > 1) {
            properties.push(Property::sometimes("a worker of the old build is stopped", |_, state: &State| {
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

    /// Steps that may be possible: `next_state` knows.
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
                Stage::Fenced => Step::StartAnew(number),
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
