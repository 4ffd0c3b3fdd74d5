//! Faults. A stopped process needs no step of its own: any number of other steps may come before its next one.

use crate::model::{Step, System};
use crate::postgres::{Sender, Stage, Transaction};
use crate::state::{ORPHAN, REPLAY, Rebuild, State, WORKERS, Worker};

impl System {
    /// Returns whether the fault is possible now.
    pub fn fault(&self, state: &mut State, step: Step) -> bool {
        if step == Step::RollBack {
            return state.transactions[ORPHAN].take().is_some();
        }
        if state.faults == 0 {
            return false;
        }
        state.faults -= 1;
        match step {
            Step::Disconnect(number) => {
                let Some(tx) = state.transactions[number] else { return false };
                // A transaction that holds no lock makes no difference.
                let matters = !matches!(tx.stage, Stage::Begin | Stage::Fenced);
                let lost = matters && state.orphan(number, Sender::Orphaned);
                state.transactions[number] = Some(tx.rolled_back(Stage::Begin));
                lost
            }
            Step::Crash(worker) => {
                let mut lanes = (0..WORKERS).filter(|lane| self.process(*lane) == worker);
                let dies = lanes.all(|lane| state.orphan(lane, Sender::Orphaned));
                state.workers[worker] = Worker::new(state.workers[worker].build);
                dies && self.process(worker) == worker
            }
            Step::SwapGivenUp => {
                let gives_up = matches!(state.rebuild, Rebuild::HoldsLive | Rebuild::HoldsBoth);
                state.rebuild = Rebuild::Filling;
                // The batch in flight continues, up to its COMMIT.
                gives_up && state.orphan(REPLAY, Sender::Replay)
            }
            Step::RebuildCrash => {
                let dies = !matches!(state.rebuild, Rebuild::NotRunning | Rebuild::Swapped);
                state.rebuild = Rebuild::NotRunning;
                dies && state.orphan(REPLAY, Sender::Orphaned)
            }
            _ => unreachable!("not a fault: {step:?}"),
        }
    }
}

impl State {
    /// The transaction's locks stay until the server notices that its sender is gone, or until it commits: COMMIT may be
    /// under way. Returns false when there is an orphaned transaction already: two at a time aren't modelled.
    fn orphan(&mut self, number: usize, sender: Sender) -> bool {
        let Some(tx) = self.transactions[number].take() else { return true };
        if sender == Sender::Orphaned && tx.locked.or(tx.written).is_none() {
            return true;
        }
        let alone = self.transactions[ORPHAN].is_none();
        self.transactions[ORPHAN] = Some(Transaction { sender, ..tx });
        alone
    }
}
