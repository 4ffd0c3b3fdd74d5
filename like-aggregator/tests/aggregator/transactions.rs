//! Many small transactions: every second offset of the log is a marker that no consumer sees, and each one
//! makes the aggregator read again, as after a lost record.

use crate::common::{set_up, users};
use like_testkit::event;
use tokio::task::JoinSet;

const PRODUCERS: usize = 20;
const TRANSACTIONS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn small_transactions_share_rereads() {
    let (topic, system) = set_up(1).await;
    // In parallel, since each commit takes its time.
    let mut producers = JoinSet::new();
    for n in 0..PRODUCERS {
        let transactions = topic.transactions();
        producers.spawn_blocking(move || {
            for user in users(&format!("u{n}"), TRANSACTIONS / PRODUCERS) {
                transactions.begin("p", &[event("p", Some(&user), true).to_json()]);
                transactions.commit();
            }
        });
    }
    producers.join_all().await;
    let aggregator = system.aggregator(&[]).await;
    system.likes_become(TRANSACTIONS as i64).await;
    let rereads = aggregator.process.log().matches("reading again").count();
    assert!((1..=TRANSACTIONS / 20).contains(&rereads), "{rereads} rereads for {TRANSACTIONS} transactions");
}
