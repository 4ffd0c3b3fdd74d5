//! The consumer group and the workers' consumer threads: a model of `like-aggregator/src/consume/`.

use crate::batch::{Batch, Each, PARTITIONS};
use crate::model::{Part, Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{State, WORKERS};

impl System {
    /// Returns whether the step is possible now.
    pub fn consumer_step(&self, state: &mut State, step: Step) -> bool {
        match step {
            Step::Move { partition, to } => {
                let moves = state.moves > 0 && state.owner[partition] != to;
                state.moves = state.moves.saturating_sub(1);
                state.owner[partition] = to;
                moves
            }
            Step::Assigned(worker, partition) => {
                let changed = state.owner[partition] == worker && !state.workers[worker].owned[partition];
                state.workers[worker].owned[partition] = true;
                changed
            }
            Step::Revoked(worker, partition) => {
                let member = &mut state.workers[worker];
                let changed = state.owner[partition] != worker && member.owned[partition];
                member.owned[partition] = false;
                member.position[partition] = None;
                changed
            }
            Step::Offsets(worker) => self.start(state, worker),
            Step::SendBatch(worker, records) => {
                let mut batch = Batch::default();
                let in_flight = self.in_flight(state, worker);
                let member = &mut state.workers[self.process(worker)];
                for partition in (0..PARTITIONS).filter(|p| records[*p] > 0) {
                    let Some(from) = member.position[partition] else { return false };
                    if in_flight[partition] {
                        return false;
                    }
                    let to = from + records[partition];
                    if to > self.log.end(partition) {
                        return false;
                    }
                    batch.0[partition] = (from, to);
                    member.position[partition] = Some(to);
                }
                let sends = !batch.is_empty() && state.transactions[worker].is_none();
                state.transactions[worker] = Some(Transaction::new(Sender::Worker, member.build, batch));
                sends
            }
            Step::Rewind(number) => {
                let Some(tx) = state.transactions[number].filter(|tx| tx.stage == Stage::Fenced) else { return false };
                state.rewind(number, self.process(number), tx.batch);
                true
            }
            Step::GiveUp(worker) => {
                let Some(tx) = state.transactions[worker].filter(|tx| tx.stage == Stage::Begin) else { return false };
                let process = self.process(worker);
                let owned = state.workers[process].owned;
                state.rewind(worker, process, tx.batch);
                tx.batch.partitions().any(|partition| !owned[partition])
            }
            Step::Hold(lane) => {
                let Some(tx) = state.transactions[lane].filter(|_| self.lanes) else { return false };
                let position = &mut state.workers[self.process(lane)].position;
                tx.batch.partitions().filter(|partition| position[*partition].take().is_some()).count() > 0
            }
            Step::Copy(worker) => {
                let to_copy = std::mem::take(&mut state.workers[worker].to_copy);
                for (copy, next) in state.in_kafka.iter_mut().zip(to_copy) {
                    *copy = next.unwrap_or(*copy);
                }
                to_copy.iter().any(|next| next.is_some())
            }
            _ => unreachable!("not a step of a consumer: {step:?}"),
        }
    }

    /// The partitions of which a worker, or another lane of its process, has a batch in flight.
    fn in_flight(&self, state: &State, worker: usize) -> Each<bool> {
        let of_process = |other: &usize| self.process(*other) == self.process(worker);
        let batches = (0..WORKERS).filter(of_process).filter_map(|other| state.transactions[other]);
        batches.fold([false; PARTITIONS], |in_flight, tx| std::array::from_fn(|p| in_flight[p] || tx.batch.covers(p)))
    }

    /// A worker handles one command after the other: it reads a partition's offset only while it has no batch of it in
    /// flight.
    fn start(&self, state: &mut State, worker: usize) -> bool {
        let stored = if self.has(Part::OffsetsInTransaction) { state.live().next } else { state.in_kafka };
        let in_flight = self.in_flight(state, worker);
        let member = &mut state.workers[worker];
        let mut found = false;
        for (partition, next) in stored.into_iter().enumerate() {
            if member.owned[partition] && member.position[partition].is_none() && !in_flight[partition] {
                member.position[partition] = Some(next);
                found = true;
            }
        }
        found && (self.lanes || state.transactions[worker].is_none())
    }
}

impl State {
    /// The batch is not applied: the offsets of its partitions are read again. Records collected since are dropped.
    fn rewind(&mut self, number: usize, process: usize, batch: Batch) {
        self.transactions[number] = None;
        if number < WORKERS {
            for partition in batch.partitions() {
                self.workers[process].position[partition] = None;
            }
        }
    }
}
