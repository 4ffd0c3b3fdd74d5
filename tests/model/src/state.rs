//! The state that the checker explores.

use crate::batch::{Each, PARTITIONS};
use crate::postgres::{OLD, SHADOW, Sender, Tables, Transaction};

pub const WORKERS: usize = 2;

/// Transactions by number: one per worker, one of the replay, and one orphaned.
pub const REPLAY: usize = WORKERS;
pub const ORPHAN: usize = WORKERS + 1;

/// A process of like-aggregator: the state of its consumer thread. Its batch in flight is a [`Transaction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub build: u8,
    /// The partitions that it believes to own.
    pub owned: Each<bool>,
    /// Where the next batch begins; none until the stored offset is known.
    pub position: Each<Option<u8>>,
    /// Offsets to copy to Kafka; modelled only where Kafka's offsets matter.
    pub to_copy: Each<Option<u8>>,
}

impl Worker {
    pub fn new(build: u8) -> Self {
        Self { build, owned: [false; PARTITIONS], position: [None; PARTITIONS], to_copy: [None; PARTITIONS] }
    }
}

/// The progress of `rebuild`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rebuild {
    /// Not started, or dead.
    NotRunning,
    /// Between two rounds of folding.
    Filling,
    /// In the swap's transaction with the live offsets locked: folding the rest.
    HoldsLive,
    /// With the shadow offsets locked too.
    HoldsBoth,
    /// Committed.
    Swapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tables: [Tables; 2],
    /// The schema that is named `likes`.
    pub live: u8,
    /// A stored offset of the live schema was higher before.
    pub offset_went_back: bool,
    /// The owner of each partition according to the group coordinator.
    pub owner: Each<usize>,
    /// The group's offsets in Kafka; modelled only where they matter.
    pub in_kafka: Each<u8>,
    pub workers: [Worker; WORKERS],
    pub transactions: [Option<Transaction>; WORKERS + 2],
    pub rebuild: Rebuild,
    /// How many moves of a partition and how many faults are left.
    pub moves: u8,
    pub faults: u8,
}

impl State {
    /// The tables that readers see.
    pub fn live(&self) -> &Tables {
        &self.tables[self.live as usize]
    }

    /// The schema that a statement of this sender resolves now.
    pub fn named_by(&self, sender: Sender) -> Option<u8> {
        match sender {
            Sender::Worker => Some(self.live),
            // `likes_rebuild` does not exist after the rename.
            Sender::Replay => (self.live == OLD).then_some(SHADOW),
            Sender::Orphaned => None,
        }
    }

    pub fn swap_holds(&self, tables: u8) -> bool {
        match self.rebuild {
            Rebuild::HoldsLive => tables == OLD,
            Rebuild::HoldsBoth => true,
            Rebuild::NotRunning | Rebuild::Filling | Rebuild::Swapped => false,
        }
    }

    pub fn others(&self, number: usize) -> impl Iterator<Item = &Transaction> {
        let others = self.transactions.iter().enumerate().filter(move |(other, _)| *other != number);
        others.filter_map(|(_, tx)| tx.as_ref())
    }
}
