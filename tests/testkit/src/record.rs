//! The acknowledged events, and their comparison with what the services have stored.

use std::collections::{BTreeMap, BTreeSet};

use like_events::Receipt;
use uuid::Uuid;

use crate::crowd::LIMIT;
use crate::wait::Deadline;
use crate::{Acknowledged, TestClient, TestSystem};

#[derive(Debug, Default)]
pub struct Record {
    pub users: BTreeSet<String>,
    /// Acknowledged requests including repeats, each user's in order.
    pub clicks: Vec<Click>,
    /// One per acknowledgement, repeats included.
    pub receipts: Vec<String>,
    pub event_ids: BTreeSet<Uuid>,
    /// The expected likes as (product, user).
    pub liked: BTreeSet<(String, String)>,
    /// Acknowledgements after an attempt with an unknown outcome.
    pub unsettled: usize,
    /// The expected sum of delta events per product.
    pub deltas: BTreeMap<String, i64>,
}

/// An acknowledged like or unlike.
#[derive(Debug, Clone)]
pub struct Click {
    pub user: String,
    pub product: String,
    pub liked: bool,
    pub acknowledged: Acknowledged,
}

/// The result of a comparison.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Differences {
    /// Acknowledged but not counted.
    pub lost: usize,
    /// Counted more often than acknowledged.
    pub doubled: usize,
}

impl Record {
    /// Adds an acknowledgement; a repeated event changes no like.
    pub fn note(&mut self, click: Click) {
        self.users.insert(click.user.clone());
        self.receipts.push(click.acknowledged.receipt.clone());
        if self.event_ids.insert(click.acknowledged.event_id) {
            let like = (click.product.clone(), click.user.clone());
            if click.liked {
                self.liked.insert(like);
            } else {
                self.liked.remove(&like);
            }
        }
        self.clicks.push(click);
    }

    /// The record without the events at the positions for which `gone` is true, and those events.
    /// Users' events only.
    pub fn without(self, gone: impl Fn(Receipt) -> bool) -> (Self, Vec<Click>) {
        let place = |click: &Click| click.acknowledged.receipt.parse().unwrap_or_else(|e| panic!("{click:?}: {e}"));
        let (gone, left): (Vec<_>, Vec<_>) = self.clicks.into_iter().partition(|click| gone(place(click)));
        let mut record = Self { users: self.users, unsettled: self.unsettled, ..Self::default() };
        left.into_iter().for_each(|click| record.note(click));
        (record, gone)
    }

    /// The union of two records with different users or products.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.users.extend(other.users);
        self.clicks.extend(other.clicks);
        self.receipts.extend(other.receipts);
        self.event_ids.extend(other.event_ids);
        self.liked.extend(other.liked);
        self.unsettled += other.unsettled;
        for (product, delta) in other.deltas {
            *self.deltas.entry(product).or_default() += delta;
        }
        self
    }

    /// Waits until every receipt is "counted". The last one of each partition suffices, since counting
    /// follows the order of the log.
    pub async fn wait_until_counted(&self, client: &TestClient) {
        let mut last = BTreeMap::new();
        for receipt in &self.receipts {
            let place: Receipt = receipt.parse().unwrap_or_else(|e| panic!("{receipt}: {e}"));
            let known = last.entry((place.sequence, place.partition)).or_insert((place.offset, receipt));
            *known = (*known).max((place.offset, receipt));
        }
        let deadline = Deadline::after(LIMIT);
        for (_, receipt) in last.into_values() {
            while client.receipt(receipt).await["status"] == "pending" {
                deadline.pause("a receipt says counted").await;
            }
            assert_eq!(client.receipt(receipt).await["status"], "counted", "{receipt}");
        }
    }

    /// Waits until everything is counted, then compares the tables, and through the API what each user
    /// sees.
    pub async fn compare(&self, system: &TestSystem, client: &TestClient) -> Differences {
        self.wait_until_counted(client).await;
        let mut found = self.compare_tables(system).await;
        let counts = self.counts();
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
        found
    }

    /// Compares the tables once everything is folded.
    pub async fn compare_tables(&self, system: &TestSystem) -> Differences {
        let mut found = Differences::default();
        let counts = self.counts();
        let stored = "SELECT product_id, like_count FROM product_like_count";
        let stored: Vec<(String, i64)> = system.database.rows(stored).await;
        let stored: BTreeMap<&str, i64> = stored.iter().map(|(product, count)| (product.as_str(), *count)).collect();
        for product in counts.keys().chain(stored.keys()).collect::<BTreeSet<_>>() {
            let of = |counts: &BTreeMap<&str, i64>| counts.get(product).copied().unwrap_or_default();
            let (expected, stored) = (of(&counts), of(&stored));
            found.note(product, expected - stored);
        }

        let liked = "SELECT product_id, user_id FROM product_like WHERE liked";
        let liked: Vec<(String, String)> = system.database.rows(liked).await;
        let liked: BTreeSet<_> = liked.into_iter().collect();
        self.liked.difference(&liked).for_each(|like| found.note(&format!("{like:?}"), 1));
        liked.difference(&self.liked).for_each(|like| found.note(&format!("{like:?}"), -1));

        // With DEDUP=history exactly the acknowledged events are in the history.
        let handled: Vec<Uuid> = system.database.column("SELECT event_id FROM event_handled").await;
        let handled: BTreeSet<Uuid> = handled.into_iter().collect();
        self.event_ids.difference(&handled).for_each(|id| found.note(&format!("event {id}"), 1));
        handled.difference(&self.event_ids).for_each(|id| found.note(&format!("event {id}"), -1));
        assert_eq!(
            system.wrong_counts().await,
            0,
            "counts that differ from likers plus deltas or from the sum of their hours"
        );
        found
    }

    /// The expected count of each product.
    fn counts(&self) -> BTreeMap<&str, i64> {
        let mut counts: BTreeMap<&str, i64> = self.deltas.iter().map(|(p, delta)| (p.as_str(), *delta)).collect();
        self.liked.iter().for_each(|(product, _)| *counts.entry(product).or_default() += 1);
        counts
    }

    /// [`Record::compare`], without any difference.
    pub async fn is_counted(&self, system: &TestSystem, client: &TestClient) {
        assert_eq!(self.compare(system, client).await, Differences::default());
    }
}

impl Differences {
    /// Adds a difference between expected and stored: positive is lost, negative is counted twice.
    fn note(&mut self, what: &str, missing: i64) {
        if missing != 0 {
            eprintln!("{what}: {} {}", missing.abs(), if missing > 0 { "lost" } else { "too many" });
        }
        self.lost += missing.max(0) as usize;
        self.doubled += (-missing).max(0) as usize;
    }
}
