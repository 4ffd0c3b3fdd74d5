//! Faults. A stopped process needs no step: any number of other steps may come before its next one.

use crate::model::{Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{LEFT, REPLAY, Rebuild, State, Worker};

impl System {
    /// Takes the step; false if it is impossible now.
    pub fn fault(state: &mut State, step: Step) -> bool {
        if step == Step::RollBack {
            return state.transactions[LEFT].take().is_some();
        }
        if state.faults == 0 {
            return false;
        }
        state.faults -= 1;
        match step {
            Step::Disconnect(number) => {
                let Some(it) = state.transactions[number] else { return false };
                // Without effect where the transaction holds no locks.
                let matters = !matches!(it.stage, Stage::Begin | Stage::Fenced);
                let lost = matters && state.leave_behind(number, Sender::Gone);
                state.transactions[number] = Some(it.rolled_back(Stage::Begin));
                lost
            }
            Step::Crash(worker) => {
                let dies = state.leave_behind(worker, Sender::Gone);
                state.workers[worker] = Worker::new(state.workers[worker].build);
                dies
            }
            Step::NotYet => {
                let gives_up = matches!(state.rebuild, Rebuild::HoldsLive | Rebuild::HoldsBoth);
                state.rebuild = Rebuild::Filling;
                // The batch in flight continues on the server, up to its COMMIT.
                gives_up && state.leave_behind(REPLAY, Sender::Replay)
            }
            Step::RebuildDies => {
                let dies = !matches!(state.rebuild, Rebuild::Gone | Rebuild::Swapped);
                state.rebuild = Rebuild::Gone;
                dies && state.leave_behind(REPLAY, Sender::Gone)
            }
            _ => unreachable!("not a fault: {step:?}"),
        }
    }
}

impl State {
    /// The transaction keeps its locks until the server detects the loss, or until it commits: COMMIT
    /// may be on its way. False if another transaction is left behind already.
    fn leave_behind(&mut self, number: usize, sender: Sender) -> bool {
        let Some(it) = self.transactions[number].take() else { return true };
        if sender == Sender::Gone && it.locked.or(it.written).is_none() {
            return true;
        }
        let alone = self.transactions[LEFT].is_none();
        self.transactions[LEFT] = Some(Transaction { sender, ..it });
        alone
    }
}
