//! `rebuild`: `like-aggregator/src/commands/rebuild.rs`, `rebuild/swap.rs`, `src/replay.rs`.

use crate::batch::{Batch, PARTITIONS};
use crate::model::{Part, Step, System};
use crate::postgres::{FRESH, OLD, Sender, Transaction};
use crate::state::{REPLAY, Rebuild, State};

impl System {
    /// False: it can't be taken now.
    pub fn rebuild_step(&self, state: &mut State, step: Step) -> bool {
        let (live, fresh) = (state.tables[OLD as usize].next, state.tables[FRESH as usize].next);
        let idle = state.transactions[REPLAY].is_none();
        let mut left = Batch::default();
        for partition in (0..PARTITIONS).filter(|p| fresh[*p] < live[*p]) {
            left.0[partition] = (fresh[partition], live[partition]);
        }
        let (at, next, possible) = match step {
            Step::Round => {
                let build = self.rebuild.unwrap_or_default();
                let found = &state.tables[FRESH as usize];
                let changes = self.log.fold(left, build, found.handled, found.liked);
                let round = Transaction::new(Sender::Replay, build, left);
                Transaction { changes, written: Some(FRESH), advanced: Some(FRESH), ..round }.commit(&mut state.tables);
                (Rebuild::Filling, Rebuild::Filling, !left.is_empty() && self.swap_can_lock(state, FRESH))
            }
            Step::LockLive => (Rebuild::Filling, Rebuild::HoldsLive, self.swap_can_lock(state, OLD)),
            Step::Refold => {
                state.transactions[REPLAY] =
                    Some(Transaction::new(Sender::Replay, self.rebuild.unwrap_or_default(), left));
                (Rebuild::HoldsLive, Rebuild::HoldsLive, idle && !left.is_empty())
            }
            Step::LockFresh => {
                let folded = idle && left.is_empty();
                (Rebuild::HoldsLive, Rebuild::HoldsBoth, folded && self.swap_can_lock(state, FRESH))
            }
            Step::Rename => {
                state.live = FRESH;
                (Rebuild::HoldsBoth, Rebuild::Swapped, left.is_empty())
            }
            _ => unreachable!("not a rebuild's: {step:?}"),
        };
        let taken = state.rebuild == at && possible;
        state.rebuild = next;
        taken
    }

    fn swap_can_lock(&self, state: &State, tables: u8) -> bool {
        !state.transactions.iter().flatten().any(|it| {
            let holds_a_row = || (0..PARTITIONS).any(|partition| it.holds_offset(tables, partition));
            if self.has(Part::TableLocks) { it.uses_offsets(tables) } else { holds_a_row() }
        })
    }
}
