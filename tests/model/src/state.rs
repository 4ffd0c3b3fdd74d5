//! One state of the model.

use crate::batch::{Each, PARTITIONS};
use crate::postgres::{FRESH, OLD, Sender, Tables, Transaction};

pub const WORKERS: usize = 2;

/// Indices of transactions: each worker's, then the replay's, then one whose client is gone.
pub const REPLAY: usize = WORKERS;
pub const LEFT: usize = WORKERS + 1;

/// The consumer thread of a like-aggregator process. Its worker task is its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub build: u8,
    /// Partitions that it believes to own.
    pub ours: Each<bool>,
    /// The first offset of the next batch; None until the stored offset is known.
    pub position: Each<Option<u8>>,
    /// Offsets to commit to Kafka; set only where these matter.
    pub to_copy: Each<Option<u8>>,
}

impl Worker {
    pub fn new(build: u8) -> Self {
        Self { build, ours: [false; PARTITIONS], position: [None; PARTITIONS], to_copy: [None; PARTITIONS] }
    }
}

/// Progress of `rebuild`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rebuild {
    /// Not started, or dead.
    Gone,
    /// Between two rounds.
    Filling,
    /// In the swap's transaction, with a lock on the live offsets: folds the last records.
    HoldsLive,
    /// With a lock on the shadow schema's offsets too.
    HoldsBoth,
    Swapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tables: [Tables; 2],
    /// Index of the tables that are named `likes`.
    pub live: u8,
    /// A reader of the tables that are named `likes` has seen an offset decrease.
    pub went_back: bool,
    /// The owner of each partition, according to the group coordinator.
    pub owner: Each<usize>,
    /// The group's offsets in Kafka; set only where these matter.
    pub in_kafka: Each<u8>,
    pub workers: [Worker; WORKERS],
    pub transactions: [Option<Transaction>; WORKERS + 2],
    pub rebuild: Rebuild,
    /// Remaining moves of partitions, and remaining faults.
    pub moves: u8,
    pub faults: u8,
}

impl State {
    pub fn live(&self) -> &Tables {
        &self.tables[self.live as usize]
    }

    /// The tables that a statement of this sender resolves to.
    pub fn named_by(&self, sender: Sender) -> Option<u8> {
        match sender {
            Sender::Worker => Some(self.live),
            // After the rename there is no `likes_rebuild`.
            Sender::Replay => (self.live == OLD).then_some(FRESH),
            Sender::Gone => None,
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
