//! What breaks. A process that is stopped needs no step of its own: any other step may come before its next one.

use crate::model::{Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{LEFT, REPLAY, Rebuild, State, Worker};

impl System {
    /// False: it can't happen now.
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
                // Where it holds nothing yet, or no longer, nobody can tell.
                let matters = !matches!(it.stage, Stage::Begin | Stage::Fenced);
                let lost = matters && state.leave_behind(number, Sender::Nobody);
                state.transactions[number] = Some(it.rolled_back(Stage::Begin));
                lost
            }
            Step::Crash(worker) => {
                let dies = state.leave_behind(worker, Sender::Nobody);
                state.workers[worker] = Worker::new(state.workers[worker].build);
                dies
            }
            Step::NotYet => {
                let gives_up = matches!(state.rebuild, Rebuild::HoldsLive | Rebuild::HoldsBoth);
                state.rebuild = Rebuild::Filling;
                // The batch in flight goes on without us, to its COMMIT if it can.
                gives_up && state.leave_behind(REPLAY, Sender::Replay)
            }
            Step::RebuildDies => {
                let dies = !matches!(state.rebuild, Rebuild::Gone | Rebuild::Swapped);
                state.rebuild = Rebuild::Gone;
                dies && state.leave_behind(REPLAY, Sender::Nobody)
            }
            _ => unreachable!("not a fault: {step:?}"),
        }
    }
}

impl State {
    /// What the transaction holds is held until the server notices, or until it commits: COMMIT may be under way. False:
    /// there is one left behind already, and two at a time aren't modelled.
    fn leave_behind(&mut self, number: usize, sender: Sender) -> bool {
        let Some(it) = self.transactions[number].take() else { return true };
        if sender == Sender::Nobody && it.locked.or(it.written).is_none() {
            return true;
        }
        let alone = self.transactions[LEFT].is_none();
        self.transactions[LEFT] = Some(Transaction { sender, ..it });
        alone
    }
}
