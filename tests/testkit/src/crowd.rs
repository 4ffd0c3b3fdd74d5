//! Concurrent users. Their acknowledged likes go into a [`Record`].
//!
//! A request without a response, or with 503 or 504, is retried with its key through any replica until
//! it is acknowledged; only then does the user send the next one. So a like of unknown outcome is never
//! behind a later one of the same user in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::wait::Deadline;
use crate::{Click, Record, TestClient, until};

/// Limit for a like to be acknowledged or counted while servers are down.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Parameters of the load.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// The same seed gives each user the same requests in the same order.
    pub seed: u64,
    /// Number of concurrent users.
    pub users: usize,
    /// Number of the first user: two crowds on one system need different users.
    pub first_user: usize,
    /// Minimum of requests per user; they continue until [`Clicking::finish`].
    pub clicks: usize,
    pub products: usize,
    /// Every second new request is for a product that its user leaves after four requests: there the
    /// effect of a lost record remains.
    pub passing: bool,
    /// Maximum pause between a user's requests.
    pub pause: Duration,
}

/// A running crowd.
pub struct Clicking {
    users: JoinSet<Record>,
    enough: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Crowd {
    /// 20 products, `passing` off, no pause.
    pub fn new(seed: u64, users: usize, clicks: usize) -> Self {
        Self { seed, users, first_user: 0, clicks, products: 20, passing: false, pause: Duration::ZERO }
    }

    /// Starts all users; each attempt goes through a random replica.
    pub fn start(&self, replicas: &[TestClient]) -> Clicking {
        let (enough, acknowledged) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let user = |n| click(self.clone(), replicas.to_vec(), n, Arc::clone(&enough), Arc::clone(&acknowledged));
        Clicking { users: (self.first_user..self.first_user + self.users).map(user).collect(), enough, acknowledged }
    }
}

impl Clicking {
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for `more` acknowledgements.
    pub async fn clicks(&self, more: usize) {
        let expected = self.acknowledged() + more;
        until("users click", async || self.acknowledged() >= expected).await;
    }

    /// Stops the users once each has sent its minimum.
    pub async fn finish(self) -> Record {
        self.enough.store(true, Ordering::Relaxed);
        self.users.join_all().await.into_iter().fold(Record::default(), Record::and)
    }
}

/// One user: likes and unlikes; every fourth request repeats an earlier one, which must not restore
/// the older state.
async fn click(
    crowd: Crowd,
    replicas: Vec<TestClient>,
    user: usize,
    enough: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Record {
    let mut dice = StdRng::seed_from_u64(crowd.seed.wrapping_mul(1_000_003).wrapping_add(user as u64));
    // A separate generator: the number of attempts depends on the faults, the requests do not.
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
        let deadline = Deadline::after(LIMIT);
        let mut settled = true;
        let acknowledgement = loop {
            let replica = &replicas[replica_dice.random_range(..replicas.len())];
            if let Some(acknowledgement) = replica.try_click(&user, &product, liked, &key).await {
                break acknowledgement;
            }
            settled = false;
            deadline.pause("a like is acknowledged").await;
        };
        acknowledged.fetch_add(1, Ordering::Relaxed);
        record.unsettled += usize::from(!settled);
        record.note(Click { user: user.clone(), product, liked, acknowledged: acknowledgement });
        if !crowd.pause.is_zero() {
            tokio::time::sleep(crowd.pause.mul_f64(replica_dice.random())).await;
        }
    }
    record
}
