//! `rebuild`: a model of `like-aggregator/src/commands/rebuild/` and `replay/`.

use crate::batch::{Batch, PARTITIONS};
use crate::model::{Part, Step, System};
use crate::postgres::{OLD, SHADOW, Sender, Transaction};
use crate::state::{REPLAY, Rebuild, State};

impl System {
    /// Returns whether the step is possible now.
    pub fn rebuild_step(&self, state: &mut State, step: Step) -> bool {
        let (live, shadow) = (state.tables[OLD as usize].next, state.tables[SHADOW as usize].next);
        let idle = state.transactions[REPLAY].is_none();
        let mut left = Batch::default();
        for partition in (0..PARTITIONS).filter(|p| shadow[*p] < live[*p]) {
            left.0[partition] = (shadow[partition], live[partition]);
        }
        let (at, next, possible) = match step {
            Step::Round => {
                let build = self.rebuild.unwrap_or_default();
                let found = &state.tables[SHADOW as usize];
                let changes = self.log.fold(left, build, found.handled, found.liked);
                let round = Transaction::new(Sender::Replay, build, left);
                Transaction { changes, written: Some(SHADOW), advanced: Some(SHADOW), ..round }
                    .commit(&mut state.tables);
                (Rebuild::Filling, Rebuild::Filling, !left.is_empty() && self.swap_can_lock(state, SHADOW))
            }
            Step::LockLive => (Rebuild::Filling, Rebuild::HoldsLive, self.swap_can_lock(state, OLD)),
            Step::FoldRest => {
                state.transactions[REPLAY] =
                    Some(Transaction::new(Sender::Replay, self.rebuild.unwrap_or_default(), left));
                (Rebuild::HoldsLive, Rebuild::HoldsLive, idle && !left.is_empty())
            }
            Step::LockShadow => {
                let folded = idle && left.is_empty();
                (Rebuild::HoldsLive, Rebuild::HoldsBoth, folded && self.swap_can_lock(state, SHADOW))
            }
            Step::Rename => {
                state.live = SHADOW;
                (Rebuild::HoldsBoth, Rebuild::Swapped, left.is_empty())
            }
            _ => unreachable!("not a rebuild's: {step:?}"),
        };
        let possible = state.rebuild == at && possible;
        state.rebuild = next;
        possible
    }

    fn swap_can_lock(&self, state: &State, tables: u8) -> bool {
        !state.transactions.iter().flatten().any(|tx| {
            let holds_a_row = || (0..PARTITIONS).any(|partition| tx.holds_offset(tables, partition));
            if self.has(Part::TableLocks) { tx.uses_offsets(tables) } else { holds_a_row() }
        })
    }
}
