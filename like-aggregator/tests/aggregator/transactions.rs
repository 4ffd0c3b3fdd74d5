//! Transactions of other producers. Many small ones: every second offset of the log is a marker that no consumer
//! sees, and each one makes the aggregator read again, as after a lost record. An open one: it holds records back.

use crate::common::{publish, set_up, users};
use like_testkit::{event, until};
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

#[tokio::test(flavor = "multi_thread")]
async fn open_transaction_is_shown_as_held_back() {
    let (topic, system) = set_up(1).await;
    let aggregator = system.aggregator(&[]).await;
    let transactions = topic.transactions();
    transactions.begin("p", &[event("p", Some("ada"), true).to_json()]);
    publish(&topic, 0, users("u", 9));
    let metric = async |name: &str| aggregator.metric(name, "partition").await as i64;
    until("it is held back", async || metric("likes_held_back_records").await == 10).await;
    assert_eq!(metric("likes_consumer_lag_records").await, 0);
    let status = async || system.json(&["status"]).await.1;
    let shown = status().await;
    assert_eq!(
        (&shown["lag"], &shown["heldBack"], &shown["partitions"][0]["logEnd"]),
        (&0.into(), &10.into(), &10.into())
    );
    // A like of the user may be among them.
    let args = ["erase-user", "ada", "--yes", "--timeout", "1s"];
    system.refused(&args, &["partition 0", "open transaction holds back the records from 0 on"]).await;
    transactions.commit();
    system.likes_become(10).await;
    // The marker stays behind the last record.
    assert_eq!((topic.end_offsets()[0], system.number("SELECT next_offset FROM kafka_offset").await), (11, 10));
    let shown = status().await;
    assert_eq!((&shown["lag"], &shown["heldBack"]), (&0.into(), &0.into()));
    until("no lag", async || {
        (metric("likes_consumer_lag_records").await, metric("likes_held_back_records").await) == (0, 0)
    })
    .await;
}
