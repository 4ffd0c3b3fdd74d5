//! The claims that the design rests on, each with an experiment that fails when the claim doesn't
//! show. What is naive in them stands here and nowhere in the services; what is ours is the
//! services' own code. Everything is made on the servers of the [`Lab`] and stays there.

mod crash;
mod fold;
mod growth;
mod lab;
mod lost_ack;
mod order;
mod parallel;
mod proxy;
mod reading;
mod records;
mod repeats;
pub mod report;
mod spreading;

pub use lab::Lab;

/// A claim and what it takes to hold, in one sentence.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// From 1, as docs/CLAIMS.md numbers them.
    pub number: usize,
    /// The sentence.
    pub text: &'static str,
}

/// What an experiment has shown.
#[derive(Debug)]
pub struct Finding {
    /// The figures, for people.
    pub measured: String,
    /// Whether they are what the claim says.
    pub holds: bool,
}

/// All of them, in order.
pub const CLAIMS: [Claim; 11] = {
    const fn claim(number: usize, text: &'static str) -> Claim {
        Claim { number, text }
    }
    [
        claim(1, "Partitions let the consumers of a group work in parallel."),
        claim(2, "Without a key, the sticky partitioner fills batches better than spreading record by record."),
        claim(
            3,
            "Without a key, a like and its unlike can be applied in the wrong order; with the product as key, never.",
        ),
        claim(4, "Growing the partitions sends keys elsewhere; both services notice and stop instead of going on."),
        claim(5, "One transaction per batch beats one UPDATE per event, with all that it promises on top."),
        claim(6, "The log keeps what was read; resetting the offsets replays it, to the same counts."),
        claim(7, "Several groups read the same log independently."),
        claim(8, "A new group with `latest` misses what was there, with `earliest` it reads it; ours decides itself."),
        claim(9, "A lost acknowledgement doubles a record without idempotence, and doesn't with it."),
        claim(10, "A crash after the work and before the offset commit counts twice, unless the database knows."),
        claim(11, "Dropping duplicates inside a batch only is faster, and lets those of other batches through."),
    ]
};

/// Tries one claim.
pub async fn try_claim(number: usize, lab: &Lab) -> anyhow::Result<Finding> {
    match number {
        1 => parallel::consumers_share_partitions(lab).await,
        2 => spreading::sticky_fills_batches(lab).await,
        3 => order::a_key_keeps_the_order(lab).await,
        4 => growth::growing_remaps_keys(lab).await,
        5 => fold::a_batch_beats_single_updates(lab).await,
        6 => reading::the_log_can_be_replayed(lab).await,
        7 => reading::groups_are_independent(lab).await,
        8 => reading::a_new_group_needs_a_start(lab).await,
        9 => lost_ack::idempotence_drops_the_repeat(lab).await,
        10 => crash::the_database_must_know(lab).await,
        11 => repeats::history_against_batch(lab).await,
        _ => anyhow::bail!("there is no claim {number}"),
    }
}
