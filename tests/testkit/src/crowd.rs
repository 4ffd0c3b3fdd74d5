//! Users who click at the same time. What is acknowledged to them goes into a [`Record`].
//!
//! A wish without an answer, or with a 503 or 504, is sent again with its key, through any of the
//! replicas, until it is acknowledged; only then comes that user's next wish. So an unsettled wish
//! may be in the log or not, and never lands behind a later one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::wait::Patience;
use crate::{Record, TestClient, Wish, eventually};

/// How long a wish, or its count, may take while servers are gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Who clicks how.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// The same seed gives each user the same wishes in the same order.
    pub seed: u64,
    /// How many users click at the same time.
    pub users: usize,
    /// The number of the first of them: another crowd on the same system has other users.
    pub first_user: usize,
    /// Each user's clicks, at least: they go on until [`Clicking::finish`].
    pub clicks: usize,
    /// Over how many products.
    pub products: usize,
    /// Every second new wish is for a product that its user comes back to for four wishes at most:
    /// there a record that was lost shows for good.
    pub passing: bool,
    /// Between a user's clicks, at most, to bound the rate.
    pub pause: Duration,
}

/// A crowd at work.
pub struct Clicking {
    users: JoinSet<Record>,
    enough: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Crowd {
    /// 20 products, none passing, and no pause.
    pub fn new(seed: u64, users: usize, clicks: usize) -> Self {
        Self { seed, users, first_user: 0, clicks, products: 20, passing: false, pause: Duration::ZERO }
    }

    /// Everybody clicks, each attempt through one of these replicas.
    pub fn start(&self, replicas: &[TestClient]) -> Clicking {
        let (enough, acknowledged) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let user = |n| click(self.clone(), replicas.to_vec(), n, Arc::clone(&enough), Arc::clone(&acknowledged));
        Clicking { users: (self.first_user..self.first_user + self.users).map(user).collect(), enough, acknowledged }
    }
}

impl Clicking {
    /// How many acknowledgements there were so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more are acknowledged.
    pub async fn clicks(&self, more: usize) {
        let until = self.acknowledged() + more;
        eventually("users click", async || (self.acknowledged() >= until).then_some(())).await;
    }

    /// Ends the clicking, once each user has clicked as often as asked for.
    pub async fn finish(self) -> Record {
        self.enough.store(true, Ordering::Relaxed);
        self.users.join_all().await.into_iter().fold(Record::default(), Record::and)
    }
}

/// One user: likes and unlikes, and every fourth time an earlier click once more, which must not
/// bring its wish back.
async fn click(
    crowd: Crowd,
    replicas: Vec<TestClient>,
    user: usize,
    enough: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Record {
    let mut dice = StdRng::seed_from_u64(crowd.seed.wrapping_mul(1_000_003).wrapping_add(user as u64));
    // Not of the wishes: how often is asked depends on the faults, what is wished doesn't.
    let mut replica_dice = StdRng::seed_from_u64(dice.random());
    let user = format!("user-{user}");
    let mut record = Record { users: [user.clone()].into(), ..Record::default() };
    let mut past: Vec<(String, bool, String)> = Vec::new();
    for n in 0.. {
        if n >= crowd.clicks && enough.load(Ordering::Relaxed) {
            break;
        }
        let (product, liked, key) = if !past.is_empty() && dice.random_ratio(1, 4) {
            past[dice.random_range(..past.len())].clone()
        } else {
            let product = if crowd.passing && dice.random() {
                format!("passing-{}", n / 4)
            } else {
                format!("product-{}", dice.random_range(..crowd.products))
            };
            past.push((product, dice.random_ratio(2, 3), format!("click-{n}")));
            past[past.len() - 1].clone()
        };
        let patience = Patience::of(PATIENCE);
        let mut settled = true;
        let acknowledgement = loop {
            let replica = &replicas[replica_dice.random_range(..replicas.len())];
            if let Some(acknowledgement) = replica.try_wish(&user, &product, liked, &key).await {
                break acknowledgement;
            }
            settled = false;
            patience.pause("a wish is acknowledged").await;
        };
        acknowledged.fetch_add(1, Ordering::Relaxed);
        record.unsettled += usize::from(!settled);
        record.note(Wish { user: user.clone(), product, liked, acknowledged: acknowledgement });
        if !crowd.pause.is_zero() {
            tokio::time::sleep(crowd.pause.mul_f64(replica_dice.random())).await;
        }
    }
    record
}
