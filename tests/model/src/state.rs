//! Everything that can be different between two moments.

use crate::batch::{Each, PARTITIONS};
use crate::postgres::{FRESH, OLD, Sender, Tables, Transaction};

pub const WORKERS: usize = 2;

/// Transactions by number: one of each worker, one of the replay, and one that was left behind by its sender.
pub const REPLAY: usize = WORKERS;
pub const LEFT: usize = WORKERS + 1;

/// A process of like-aggregator: its consumer thread (`src/consumer.rs`, `State`). What its worker task is at
/// (`InFlight`) is its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub build: u8,
    /// Partitions that it takes for its own.
    pub ours: Each<bool>,
    /// `State::positions`: where the next batch begins; none while PostgreSQL hasn't said (`State::wanted`).
    pub position: Each<Option<u8>>,
    /// `State::to_copy`; only told where Kafka's offsets matter.
    pub to_copy: Each<Option<u8>>,
}

impl Worker {
    pub fn new(build: u8) -> Self {
        Self { build, ours: [false; PARTITIONS], position: [None; PARTITIONS], to_copy: [None; PARTITIONS] }
    }
}

/// Where `rebuild` is: `src/commands/rebuild.rs`, `rebuild/swap.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rebuild {
    /// Not run, or dead.
    Gone,
    /// Between two rounds.
    Filling,
    /// In the swap's transaction, with the lock on the live offsets: folding what is left.
    HoldsLive,
    /// With the lock on the fresh ones, too.
    HoldsBoth,
    /// Committed.
    Swapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tables: [Tables; 2],
    /// The ones that are named `likes`.
    pub live: u8,
    /// An offset in the tables that are named `likes` was once higher than now.
    pub went_back: bool,
    /// Whose each partition is, as the group's coordinator has it.
    pub owner: Each<usize>,
    /// The group's offsets in Kafka; only told where they matter.
    pub in_kafka: Each<u8>,
    pub workers: [Worker; WORKERS],
    pub transactions: [Option<Transaction>; WORKERS + 2],
    pub rebuild: Rebuild,
    /// How often a partition may still be moved, and something break.
    pub moves: u8,
    pub faults: u8,
}

impl State {
    /// What readers see.
    pub fn live(&self) -> &Tables {
        &self.tables[self.live as usize]
    }

    /// The tables that a statement of this sender finds now.
    pub fn named_by(&self, sender: Sender) -> Option<u8> {
        match sender {
            Sender::Worker => Some(self.live),
            // `likes_rebuild` is no more once it is renamed.
            Sender::Replay => (self.live == OLD).then_some(FRESH),
            Sender::Nobody => None,
        }
    }

    pub fn swap_holds(&self, tables: u8) -> bool {
        match self.rebuild {
            Rebuild::HoldsLive => tables == OLD,
            Rebuild::HoldsBoth => true,
            Rebuild::Gone | Rebuild::Filling | Rebuild::Swapped => false,
        }
    }

    pub fn others(&self, number: usize) -> impl Iterator<Item = &Transaction> {
        let others = self.transactions.iter().enumerate().filter(move |(other, _)| *other != number);
        others.filter_map(|(_, it)| it.as_ref())
    }
}
