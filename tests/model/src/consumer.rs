//! The group and the workers' consumer threads: `like-aggregator/src/consumer.rs`, `consumer/`.

use crate::batch::{Batch, PARTITIONS};
use crate::model::{Part, Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{State, WORKERS};

impl System {
    /// False: it can't be taken now.
    pub fn consumer_step(&self, state: &mut State, step: Step) -> bool {
        match step {
            Step::Move { partition, to } => {
                let moves = state.moves > 0 && state.owner[partition] != to;
                state.moves = state.moves.saturating_sub(1);
                state.owner[partition] = to;
                moves
            }
            Step::Assigned(worker, partition) => {
                let hears = state.owner[partition] == worker && !state.workers[worker].ours[partition];
                state.workers[worker].ours[partition] = true;
                hears
            }
            Step::Revoked(worker, partition) => {
                let it = &mut state.workers[worker];
                let hears = state.owner[partition] != worker && it.ours[partition];
                it.ours[partition] = false;
                it.position[partition] = None;
                hears
            }
            Step::Offsets(worker) => self.start(state, worker),
            Step::SendOff(worker, records) => {
                let it = &mut state.workers[worker];
                let mut batch = Batch::default();
                for partition in (0..PARTITIONS).filter(|p| records[*p] > 0) {
                    let Some(from) = it.position[partition] else { return false };
                    let to = from + records[partition];
                    if to > self.log.end(partition) {
                        return false;
                    }
                    batch.0[partition] = (from, to);
                    it.position[partition] = Some(to);
                }
                let sends = !batch.is_empty() && state.transactions[worker].is_none();
                state.transactions[worker] = Some(Transaction::new(Sender::Worker, it.build, batch));
                sends
            }
            Step::StartAnew(number) => {
                let Some(it) = state.transactions[number].filter(|it| it.stage == Stage::Fenced) else { return false };
                state.start_anew(number, it.batch);
                true
            }
            Step::GiveUp(worker) => {
                let Some(it) = state.transactions[worker].filter(|it| it.stage == Stage::Begin) else { return false };
                let ours = state.workers[worker].ours;
                state.start_anew(worker, it.batch);
                it.batch.partitions().any(|partition| !ours[partition])
            }
            Step::Copy(worker) => {
                let to_copy = std::mem::take(&mut state.workers[worker].to_copy);
                for (copy, next) in state.in_kafka.iter_mut().zip(to_copy) {
                    *copy = next.unwrap_or(*copy);
                }
                to_copy.iter().any(|next| next.is_some())
            }
            _ => unreachable!("not a consumer's: {step:?}"),
        }
    }

    /// A worker handles one order after the other: none is answered while a batch is in flight.
    fn start(&self, state: &mut State, worker: usize) -> bool {
        let stored = if self.has(Part::OffsetsWithTheBatch) { state.live().next } else { state.in_kafka };
        let it = &mut state.workers[worker];
        let mut asked = false;
        for (partition, next) in stored.into_iter().enumerate() {
            if it.ours[partition] && it.position[partition].is_none() {
                it.position[partition] = Some(next);
                asked = true;
            }
        }
        asked && state.transactions[worker].is_none()
    }
}

impl State {
    /// The batch is not applied: where its partitions stand is asked for anew. Records of theirs that were collected
    /// since are dropped (`State::forget`).
    fn start_anew(&mut self, number: usize, batch: Batch) {
        self.transactions[number] = None;
        if number < WORKERS {
            for partition in batch.partitions() {
                self.workers[number].position[partition] = None;
            }
        }
    }
}
