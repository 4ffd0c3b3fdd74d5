//! Rebuilds under full load: each swap happens while a worker waits for its offset rows, or for the table that is about
//! to be renamed. Readers poll meanwhile: no count of a product that is only liked falls, and no receipt goes back from
//! `counted`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use like_testkit::{Click, Record, TestClient, TestSystem};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::scene::Scene;
use crate::{Outcome, Run};

/// The limit of one rebuild, far more than it needs.
const LIMIT: Duration = Duration::from_secs(180);
/// A rebuild whose swap met no waiting worker is repeated, at most this often.
const ATTEMPTS: usize = 4;
/// The rows are held at most this long while the swap isn't waiting: below its lock timeout.
const HELD: Duration = Duration::from_millis(1_200);

/// Products that are only liked.
const GROWING: usize = 10;

/// What a worker waits for while the swap waits for the test.
#[derive(Debug, Clone, Copy)]
enum Met {
    /// Its rows, which the test holds; the swap waits for both.
    AtTheRows,
    /// The table, which the swap has locked; the swap waits for the test at the shadow table.
    AtTheTable,
}

pub async fn swap(run: Run) -> Outcome {
    let swaps = run.pick(2, 20);
    let mut scene = Scene::start(run, 8, run.pick(8, 16), 20).await;
    scene.deltas(0..10, run.pick(200, 2_000)).await;
    let mut aggregators = [scene.system.aggregator(&[]).await, scene.system.aggregator(&[]).await];
    let (enough, reads) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
    let mut likers: JoinSet<_> = (0..4).map(|n| like(scene.api.client(), n, Arc::clone(&enough))).collect();
    let mut readers: JoinSet<_> =
        (0..2).map(|_| read(scene.api.client(), Arc::clone(&enough), Arc::clone(&reads))).collect();

    for n in 0..swaps {
        let met = [Met::AtTheRows, Met::AtTheTable][n % 2];
        let mut attempts = 0..ATTEMPTS;
        loop {
            assert!(attempts.next().is_some(), "{met:?}: {ATTEMPTS} swaps have met no worker");
            let rebuild = scene.system.command_within(LIMIT, &["rebuild", "--yes", "--drop-old"]);
            let (seen, rebuilt) = meet(&scene.system, met, rebuild).await;
            assert!(rebuilt.status.success(), "{rebuilt:?}");
            if seen {
                break;
            }
        }
        assert!(readers.try_join_next().is_none() && likers.try_join_next().is_none(), "a client has ended");
    }

    enough.store(true, Ordering::Relaxed);
    while let Some(likes) = likers.join_next().await {
        scene.others = scene.others.and(likes.expect("a liker"));
    }
    while let Some(likes) = readers.join_next().await {
        scene.others = scene.others.and(likes.expect("nothing went back"));
    }
    // Thousands of users with one like each: compare the tables, not each user's view.
    scene.others.users.clear();
    assert!(reads.load(Ordering::Relaxed) > swaps, "the readers polled too rarely");
    for aggregator in &mut aggregators {
        assert_eq!(aggregator.process.status(), None, "an aggregator exited");
    }
    scene.outcome(swaps).await
}

/// Runs a rebuild and holds a lock that its swap needs until a worker waits too. Returns whether both waited at the
/// same time.
async fn meet<T>(system: &TestSystem, met: Met, rebuild: impl Future<Output = T>) -> (bool, T) {
    let mut rebuild = std::pin::pin!(rebuild);
    let mut seen = false;
    let rebuilt = tokio::select! {
        biased;
        rebuilt = &mut rebuild => Some(rebuilt),
        () = hold(system, met) => { seen = true; None }
    };
    match rebuilt {
        Some(rebuilt) => (seen, rebuilt),
        None => (seen, rebuild.await),
    }
}

/// Returns once the swap and a worker have waited at the same time.
async fn hold(system: &TestSystem, met: Met) {
    let pool = &system.database.pool;
    let (lock, waiting) = match met {
        Met::AtTheRows => {
            ("SELECT FROM likes.kafka_offset ORDER BY partition FOR UPDATE", "wait_event IN ('transactionid', 'tuple')")
        }
        // Only the swap's own lock has to wait: folding continues.
        Met::AtTheTable => ("LOCK TABLE likes_rebuild.kafka_offset IN ROW SHARE MODE", "wait_event = 'relation'"),
    };
    let begun = "SELECT to_regclass('likes_rebuild.kafka_offset') IS NOT NULL";
    let both = format!(
        "SELECT count(*) FILTER (WHERE application_name = 'like-aggregator-replay' AND wait_event = 'relation') > 0
             AND count(*) FILTER (WHERE application_name = 'like-aggregator' AND {waiting}) > 0
         FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    );
    loop {
        if sqlx::query_scalar(begun).fetch_one(pool).await.expect("to_regclass") {
            let mut held = pool.begin().await.expect("a transaction");
            // An error means that the table was renamed meanwhile.
            let locked = sqlx::query(lock).execute(&mut *held).await.is_ok();
            let since = Instant::now();
            while locked && since.elapsed() < HELD {
                let both = sqlx::query_scalar(sqlx::AssertSqlSafe(both.as_str()));
                if both.fetch_one(pool).await.expect("pg_stat_activity") {
                    held.commit().await.expect("let go");
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The pool would roll back later.
            held.rollback().await.expect("let go");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn growing() -> Vec<String> {
    (0..GROWING).map(|n| format!("growing-{n}")).collect()
}

/// New users, one after the other; each likes one product.
async fn like(client: TestClient, name: usize, enough: Arc<AtomicBool>) -> Record {
    let mut record = Record::default();
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let (user, product) = (format!("fan-{name}-{n}"), format!("growing-{}", n % GROWING));
        let acknowledged = client.click(&user, &product, true, "once").await;
        record.note(Click { user, product, liked: true, acknowledged });
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    record
}

/// Polls counts and receipts; neither may go back.
async fn read(client: TestClient, enough: Arc<AtomicBool>, reads: Arc<AtomicUsize>) -> Record {
    let (products, mut seen, mut record) = (growing(), BTreeMap::new(), Record::default());
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        for (product, (count, _)) in products.iter().zip(client.likes("reader", &products).await) {
            let before = seen.insert(product, count).unwrap_or(0);
            assert!(count >= before, "{product} had {before} likes and has {count}");
        }
        // Now and then a like of its own, whose receipt is polled from then on.
        if n % 10 == 0 {
            let user = format!("reader-{}", Uuid::now_v7());
            let product = "read".to_owned();
            let acknowledged = client.click(&user, &product, true, "once").await;
            client.wait_until_counted(&acknowledged.receipt).await;
            record.note(Click { user, product, liked: true, acknowledged });
        }
        let receipt = &record.receipts[n % record.receipts.len()];
        assert_eq!(client.receipt(receipt).await["status"], "counted", "{receipt} had been counted");
        reads.fetch_add(1, Ordering::Relaxed);
    }
    record
}
