//! Users who like and unlike at random, each wish until it is acknowledged, and what must come of
//! it: the drills' traffic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use like_testkit::{Acknowledged, TestClient, TestSystem, eventually};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

/// Who likes what: product and user.
pub type Likers = BTreeSet<(String, String)>;

/// Clicks until it is told that it is enough.
pub struct Crowd {
    enough: Arc<AtomicBool>,
    clicks: Arc<AtomicUsize>,
    users: JoinSet<(Likers, Vec<Acknowledged>)>,
}

impl Crowd {
    /// So many users, each through whichever of these like-apis takes the wish.
    pub fn of(users: u64, apis: &[TestClient]) -> Self {
        let (enough, clicks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let click = |user| click(apis.to_vec(), user, Arc::clone(&enough), Arc::clone(&clicks));
        let users = (0..users).map(click).collect();
        Self { enough, clicks, users }
    }

    /// Waits until so many more wishes are acknowledged.
    pub async fn clicks(&self, more: usize) {
        let until = self.clicks.load(Ordering::Relaxed) + more;
        eventually("users click", async || (self.clicks.load(Ordering::Relaxed) >= until).then_some(())).await;
    }

    /// Ends it: who likes what now, and all that was acknowledged.
    pub async fn enough(mut self) -> (Likers, Vec<Acknowledged>) {
        self.enough.store(true, Ordering::Relaxed);
        let (mut likers, mut acknowledged) = (Likers::new(), Vec::new());
        while let Some(user) = self.users.join_next().await {
            let (of_user, wishes) = user.unwrap();
            likers.extend(of_user);
            acknowledged.extend(wishes);
        }
        (likers, acknowledged)
    }
}

async fn click(
    mut apis: Vec<TestClient>,
    user: u64,
    enough: Arc<AtomicBool>,
    clicks: Arc<AtomicUsize>,
) -> (Likers, Vec<Acknowledged>) {
    let mut dice = StdRng::seed_from_u64(user);
    let user = format!("user-{user}");
    let (mut liked, mut acknowledged) = (Likers::new(), Vec::new());
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        // Some again and again, for the order; some that nobody comes back to: there a record that
        // was lost shows for good.
        let again = dice.random();
        let product = if again { format!("p{}", dice.random_range(0..5)) } else { format!("once-{}", n / 4) };
        let wish = dice.random();
        let (key, mut attempts) = (n.to_string(), 0);
        let taken = loop {
            if let Some(taken) = apis[0].try_wish(&user, &product, wish, &key).await {
                break taken;
            }
            apis.rotate_left(1);
            attempts += 1;
            assert!(attempts < 2_000, "a wish is never taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        acknowledged.push(taken);
        clicks.fetch_add(1, Ordering::Relaxed);
        if wish {
            liked.insert((product, user.clone()))
        } else {
            liked.remove(&(product, user.clone()))
        };
        // A bound for the rate: each of these wishes is looked at in the end.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (liked, acknowledged)
}

/// Likes that are in the tables and shouldn't be, or the other way round.
pub async fn differences(system: &TestSystem, expected: &Likers) -> Vec<(String, String)> {
    let sql = "SELECT product_id, user_id FROM product_like WHERE liked";
    let found: Likers = sqlx::query_as(sql).fetch_all(&system.database.pool).await.unwrap().into_iter().collect();
    found.symmetric_difference(expected).cloned().collect()
}
