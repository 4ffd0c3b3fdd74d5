//! Users who click at the same time, and their own record of what was acknowledged to them: what
//! the services hold is compared with it.
//!
//! A wish without an answer, or with a 503 or 504, is sent again with its key, through any of the
//! replicas, until it is acknowledged; only then comes that user's next wish. So an unsettled wish
//! may be in the log or not, and never lands behind a later one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use like_events::Receipt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::PgPool;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::wait::Patience;
use crate::{Acknowledged, TestClient, TestSystem};

/// How long a wish, or its count, may take while servers are gone.
const PATIENCE: Duration = Duration::from_secs(180);

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
    /// Between a user's clicks, at most, to bound the rate.
    pub pause: Duration,
}

/// A crowd at work.
pub struct Clicking {
    users: JoinSet<Record>,
    enough: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

/// What became known to users by acknowledgements.
#[derive(Debug, Default)]
pub struct Record {
    /// Who clicked.
    pub users: BTreeSet<String>,
    /// What users were acknowledged, repeats included; each user's in their order.
    pub wishes: Vec<Wish>,
    /// Of each acknowledgement, repeats included.
    pub receipts: Vec<String>,
    /// Each event that was acknowledged.
    pub event_ids: BTreeSet<Uuid>,
    /// (product, user): the likes that there should be.
    pub liked: BTreeSet<(String, String)>,
    /// Acknowledgements that came only after an attempt whose outcome stayed unknown.
    pub unsettled: usize,
    /// Per product, what delta events should add up to.
    pub deltas: BTreeMap<String, i64>,
}

/// An acknowledged wish.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Who.
    pub user: String,
    /// Likes what, or no longer.
    pub product: String,
    /// Which of the two.
    pub liked: bool,
    /// What the 202 said.
    pub acknowledged: Acknowledged,
}

/// What a comparison found: events or likes that are missing, and those that are too many.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Differences {
    /// Acknowledged, and not counted.
    pub lost: usize,
    /// Counted, and not or not so often acknowledged.
    pub doubled: usize,
}

impl Crowd {
    /// 20 products, and no pause.
    pub fn new(seed: u64, users: usize, clicks: usize) -> Self {
        Self { seed, users, first_user: 0, clicks, products: 20, pause: Duration::ZERO }
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
            let product = format!("product-{}", dice.random_range(..crowd.products));
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

impl Record {
    /// One more acknowledgement. A wish that was acknowledged before is no new one.
    pub fn note(&mut self, wish: Wish) {
        self.users.insert(wish.user.clone());
        self.receipts.push(wish.acknowledged.receipt.clone());
        if self.event_ids.insert(wish.acknowledged.event_id) {
            let like = (wish.product.clone(), wish.user.clone());
            if wish.liked {
                self.liked.insert(like);
            } else {
                self.liked.remove(&like);
            }
        }
        self.wishes.push(wish);
    }

    /// What is to be counted if the records at some places of the log are gone: what was wished
    /// there and nowhere else never was. Of users only; also the wishes that are gone.
    pub fn without(self, gone: impl Fn(Receipt) -> bool) -> (Self, Vec<Wish>) {
        let place = |wish: &Wish| wish.acknowledged.receipt.parse().unwrap_or_else(|e| panic!("{wish:?}: {e}"));
        let (gone, left): (Vec<_>, Vec<_>) = self.wishes.into_iter().partition(|wish| gone(place(wish)));
        let mut record = Self { users: self.users, unsettled: self.unsettled, ..Self::default() };
        left.into_iter().for_each(|wish| record.note(wish));
        (record, gone)
    }

    /// Both together: of other users, or other products.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.users.extend(other.users);
        self.wishes.extend(other.wishes);
        self.receipts.extend(other.receipts);
        self.event_ids.extend(other.event_ids);
        self.liked.extend(other.liked);
        self.unsettled += other.unsettled;
        for (product, delta) in other.deltas {
            *self.deltas.entry(product).or_default() += delta;
        }
        self
    }

    /// Waits until everything that was acknowledged says that it is counted. Per partition the
    /// last receipt will do: counted is counted in the log's order.
    pub async fn wait_until_counted(&self, client: &TestClient) {
        let mut last = BTreeMap::new();
        for receipt in &self.receipts {
            let place: Receipt = receipt.parse().unwrap_or_else(|e| panic!("{receipt}: {e}"));
            let known = last.entry((place.sequence, place.partition)).or_insert((place.offset, receipt));
            *known = (*known).max((place.offset, receipt));
        }
        let patience = Patience::of(PATIENCE);
        for (_, receipt) in last.into_values() {
            while client.receipt(receipt).await["status"] == "pending" {
                patience.pause("a receipt says counted").await;
            }
            assert_eq!(client.receipt(receipt).await["status"], "counted", "{receipt}");
        }
    }

    /// Waits until all is counted, and compares it: through the API what each user sees, and the
    /// tables as they are.
    pub async fn compare(&self, system: &TestSystem, client: &TestClient) -> Differences {
        self.wait_until_counted(client).await;
        let mut found = Differences::default();

        // (product): likers as the record has them, with the deltas.
        let mut counts: BTreeMap<&str, i64> = self.deltas.iter().map(|(p, delta)| (p.as_str(), *delta)).collect();
        self.liked.iter().for_each(|(product, _)| *counts.entry(product).or_default() += 1);
        let stored: Vec<(String, i64)> =
            rows(&system.database.pool, "SELECT product_id, like_count FROM product_like_count").await;
        let stored: BTreeMap<&str, i64> = stored.iter().map(|(product, count)| (product.as_str(), *count)).collect();
        for product in counts.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
            let of = |counts: &BTreeMap<&str, i64>| counts.get(product).copied().unwrap_or_default();
            let (expected, stored) = (of(&counts), of(&stored));
            found.note(product, expected - stored);
        }

        let liked = "SELECT product_id, user_id FROM product_like WHERE liked";
        let liked: Vec<(String, String)> = rows(&system.database.pool, liked).await;
        let liked: BTreeSet<_> = liked.into_iter().collect();
        self.liked.difference(&liked).for_each(|like| found.note(&format!("{like:?}"), 1));
        liked.difference(&self.liked).for_each(|like| found.note(&format!("{like:?}"), -1));

        // With DEDUP=history each acknowledged event is remembered, and no other.
        let handled: Vec<(Uuid,)> = rows(&system.database.pool, "SELECT event_id FROM event_handled").await;
        let handled: BTreeSet<Uuid> = handled.into_iter().map(|(id,)| id).collect();
        self.event_ids.difference(&handled).for_each(|id| found.note(&format!("event {id}"), 1));
        handled.difference(&self.event_ids).for_each(|id| found.note(&format!("event {id}"), -1));

        let products: BTreeSet<&String> = self.liked.iter().map(|(product, _)| product).collect();
        let products: Vec<String> = products.into_iter().take(100).cloned().collect();
        for user in self.users.iter().filter(|_| !products.is_empty()) {
            let seen = client.likes(user, &products).await;
            for (product, (count, likes)) in products.iter().zip(seen) {
                let like = (product.clone(), user.clone());
                let should = i64::from(self.liked.contains(&like));
                found.note(&format!("{like:?} as the user sees it"), should - i64::from(likes));
                found.note(&format!("{product} as {user} sees it"), counts[product.as_str()] - count);
            }
        }
        assert_eq!(system.wrong_counts().await, 0, "counts that aren't the number of likers and the deltas");
        found
    }

    /// The same, where nothing may differ.
    pub async fn is_counted(&self, system: &TestSystem, client: &TestClient) {
        assert_eq!(self.compare(system, client).await, Differences::default());
    }
}

impl Differences {
    /// More is expected than there is (lost), or less (doubled).
    fn note(&mut self, what: &str, missing: i64) {
        if missing != 0 {
            eprintln!("{what}: {} {}", missing.abs(), if missing > 0 { "lost" } else { "too many" });
        }
        self.lost += missing.max(0) as usize;
        self.doubled += (-missing).max(0) as usize;
    }
}

async fn rows<T>(pool: &PgPool, sql: &'static str) -> Vec<T>
where
    T: Send + Unpin + for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    sqlx::query_as(sql).fetch_all(pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}
