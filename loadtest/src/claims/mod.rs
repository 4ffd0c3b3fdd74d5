//! The assumptions of the design, each with an experiment that fails if the claim does not hold. The
//! naive way exists only here, for comparison; the service's way is the service's own code.

mod crash;
mod fold;
mod growth;
mod lost_ack;
mod order;
mod parallel;
mod reading;
mod repeats;
mod spreading;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::backlog::Mode;
use crate::events::{Event, Ids, START_MS, Shape};

/// What the experiments share.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Of the events; the same seed makes the same events.
    pub seed: u64,
    /// The port to which the broker's second listener sends its clients.
    pub proxy_port: u16,
    /// That listener, host:port.
    pub behind_proxy: String,
}

/// What an experiment has shown.
#[derive(Debug)]
pub struct Finding {
    /// The figures, as a sentence.
    pub measured: String,
    /// Whether the claim holds.
    pub holds: bool,
}

/// All claims; docs/CLAIMS.md numbers them from 1.
pub const CLAIMS: [&str; 11] = [
    "Partitions let the consumers of a group work in parallel.",
    "Without a key, the sticky partitioner fills batches better than spreading record by record.",
    "Without a key, a like and its unlike can be applied in the wrong order; with the product as key, never.",
    "Growing the partitions sends keys elsewhere; both services notice and stop.",
    "One transaction per batch beats one UPDATE per event, with all that it promises on top.",
    "The log keeps what was read; resetting the offsets replays it, to the same counts.",
    "Several groups read the same log independently.",
    "A new group with `latest` misses existing records, with `earliest` it reads them; like-aggregator stores its own position.",
    "A lost acknowledgement doubles a record without idempotence, and doesn't with it.",
    "A crash after the work and before the offset commit counts twice, unless the database knows.",
    "Dropping duplicates inside a batch only is faster, and lets those of other batches through.",
];

/// Tests one claim.
pub async fn test_claim(number: usize, lab: &Lab) -> anyhow::Result<Finding> {
    match number {
        1 => parallel::consumers_share_partitions().await,
        2 => spreading::sticky_fills_batches().await,
        3 => order::key_keeps_the_order(lab).await,
        4 => growth::growing_remaps_keys(lab).await,
        5 => fold::batch_beats_single_updates(lab).await,
        6 => reading::log_can_be_replayed(lab).await,
        7 => reading::groups_are_independent(lab).await,
        8 => reading::new_group_needs_a_start(lab).await,
        9 => lost_ack::idempotence_drops_the_repeat(lab).await,
        10 => crash::database_must_know(lab).await,
        11 => repeats::history_against_batch(lab).await,
        _ => anyhow::bail!("there is no claim {number}"),
    }
}

impl Lab {
    fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.seed)
    }

    /// 100,000 events on 1,000 products.
    fn shape(&self, mode: Mode) -> Shape {
        let users = mode.has_users().then_some(20_000);
        Shape { events: 100_000, products: 1_000, users, hot_percent: 0, ids: Ids::V7, seed: self.seed }
    }
}

/// A new like or unlike.
fn event(rng: &mut StdRng, product: u32, user: Option<u32>, liked: bool) -> Event {
    Event { id: uuid::Uuid::new_v8(rng.random()), liked, product, user, millis: START_MS, repeat: false }
}
