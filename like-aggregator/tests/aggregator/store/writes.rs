//! The rows that a batch writes.

use super::{Fixture, HISTORY, Sent, batch, garbage, like, push};
use crate::common::{DEDUP_WINDOW, NOON};
use like_aggregator::fold::{Batch, Dedup};
use like_testkit::until;

#[tokio::test]
async fn batch_writes_all_tables() {
    let db = Fixture::new().await;
    let events = [
        like(0, 1, "u1"),
        like(1, 2, "u2"),
        Sent { liked: false, ..like(2, 3, "u2") },
        Sent { user: None, ..like(3, 4, "") },
        Sent { product: "q", ..like(5, 5, "u1") },
    ];
    let applied = db.store(HISTORY).apply(&batch(0, &events)).await.unwrap();
    assert_eq!((applied.applied, applied.unchanged, applied.duplicates), (5, 0, 0));
    assert_eq!(db.likers().await, ["p/u1", "q/u1"]);
    assert_eq!(db.counts().await, ["p=2/1", "q=1/0"]);
    assert_eq!(db.hours().await, ["p@0=2", "q@0=1"]);
    assert_eq!(db.offsets().await, [6, 0, 0]);
    assert_eq!(db.rows("event_handled").await, 5);
    let time = "SELECT (extract(epoch FROM last_record_time) * 1000)::bigint FROM kafka_offset WHERE partition = 0";
    assert_eq!(db.database.number(time).await, NOON);
}

#[tokio::test]
async fn id_counts_again_after_the_window() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    let delta = |offset, time| Sent { user: None, time, ..like(offset, 1, "") };
    let window = DEDUP_WINDOW.as_millis() as i64;
    store.apply(&batch(0, &[delta(0, NOON)])).await.unwrap();
    store.apply(&batch(1, &[delta(1, NOON + window)])).await.unwrap();
    assert_eq!(db.counts().await, ["p=1/1"], "at the edge it is a repeat");
    store.apply(&batch(2, &[delta(2, NOON + window + 1)])).await.unwrap();
    assert_eq!(db.counts().await, ["p=2/2"], "one millisecond later it is another event");
    store.apply(&batch(3, &[delta(3, NOON + 5)])).await.unwrap();
    assert_eq!(db.counts().await, ["p=2/2"], "a clock that steps back finds the later ones");

    // The same edge inside one batch gives the same.
    let other = Fixture::new().await;
    let all = [delta(0, NOON), delta(1, NOON + window), delta(2, NOON + window + 1), delta(3, NOON + 5)];
    let applied = other.store(HISTORY).apply(&batch(0, &all)).await.unwrap();
    assert_eq!((applied.applied, applied.duplicates), (2, 2));
    assert_eq!(other.counts().await, ["p=2/2"]);
}

#[tokio::test]
async fn records_of_any_age_find_a_window() {
    let db = Fixture::new().await;
    let times = [0, 253_402_300_799_999, NOON - 400 * 86_400_000, NOON];
    let events: Vec<_> = (0i64..).zip(times).map(|(i, time)| Sent { time, ..like(i, i as u128, "u1") }).collect();
    db.store(HISTORY).apply(&batch(0, &events)).await.unwrap();
    assert_eq!(db.rows("event_handled").await, 4);
    assert_eq!(db.rows("pg_inherits WHERE inhparent = 'event_handled'::regclass").await, 4);
}

#[tokio::test]
async fn dropped_window_is_made_again() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    store.apply(&batch(0, &[like(0, 1, "u1")])).await.unwrap();
    db.database.execute("DROP TABLE event_handled_20261121").await;
    let next = batch(1, &[like(1, 2, "u2")]);
    let error = store.apply(&next).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    store.apply(&next).await.unwrap();
    assert_eq!(db.counts().await, ["p=2/0"]);
}

#[tokio::test]
async fn dead_letter_is_kept_once() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    let mut mixed = batch(0, &[like(0, 1, "u1")]);
    garbage(&mut mixed, 1, 0, b"no json");
    garbage(&mut mixed, 2, 0, &vec![b'x'; 1_000_000]);
    assert_eq!(store.apply(&mixed).await.unwrap().applied, 1);
    assert_eq!(db.counts().await, ["p=1/0"]);
    assert_eq!(db.offsets().await[0], 3);

    // The same position again, as after a reset of the offsets.
    db.database.execute("UPDATE kafka_offset SET next_offset = 1 WHERE partition = 0").await;
    let mut again = Batch::default();
    garbage(&mut again, 1, 1, b"no json");
    store.apply(&again).await.unwrap();
    let rows = "SELECT record_offset, reason, length(payload), key FROM dead_letter ORDER BY 1";
    let rows: Vec<(i64, String, i32, Vec<u8>)> = db.database.rows(rows).await;
    assert_eq!(rows.len(), 2);
    assert!(rows[0].1.starts_with("not_json") && rows[0].3 == b"p");
    assert_eq!((rows[1].0, rows[1].2), (2, 64 * 1024), "cut at 64 KiB");
}

#[tokio::test]
async fn batch_moves_several_partitions() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    let at = |partition, offset, id, product| Sent { partition, product, ..like(offset, id, "u1") };
    store.apply(&batch(0, &[at(2, 0, 1, "c")])).await.unwrap();
    let mut next = batch(0, &[at(0, 0, 2, "a"), at(0, 1, 3, "a")]);
    push(&mut next, 1, &Sent { liked: false, ..at(2, 1, 4, "c") });
    store.apply(&next).await.unwrap();
    assert_eq!(db.offsets().await, [2, 0, 2]);
    assert_eq!(db.counts().await, ["a=1/0", "c=0/0"]);
}

#[tokio::test]
async fn repeated_states_change_no_count() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    let unlike = |offset, id, user| Sent { liked: false, ..like(offset, id, user) };
    let applied = store.apply(&batch(0, &[unlike(0, 1, "u1")])).await.unwrap();
    assert_eq!((applied.applied, applied.unchanged), (0, 1));
    assert!(db.counts().await.is_empty(), "an unlike alone inserts no row");
    let applied = store.apply(&batch(1, &[like(1, 2, "u1"), like(2, 3, "u1")])).await.unwrap();
    assert_eq!((applied.applied, applied.unchanged), (1, 1));
    store.apply(&batch(3, &[like(3, 4, "u1")])).await.unwrap();
    assert_eq!(db.counts().await, ["p=1/0"]);
    store.apply(&batch(4, &[unlike(4, 5, "u1"), unlike(5, 6, "u1")])).await.unwrap();
    assert_eq!((db.counts().await, db.likers().await), (vec!["p=0/0".to_owned()], vec![]));
    store.apply(&batch(6, &[like(6, 7, "u1")])).await.unwrap();
    assert_eq!(db.counts().await, ["p=1/0"]);
}

#[tokio::test]
async fn deltas_may_go_below_zero() {
    let db = Fixture::new().await;
    let minus = |offset, id| Sent { user: None, liked: false, ..like(offset, id, "") };
    db.store(HISTORY).apply(&batch(0, &[minus(0, 1), minus(1, 2), like(2, 3, "u1")])).await.unwrap();
    assert_eq!(db.counts().await, ["p=-1/-2"], "nothing is clamped in the database");
}

#[tokio::test]
async fn dedup_batch_ignores_other_batches() {
    let db = Fixture::new().await;
    db.database.execute("UPDATE fold SET dedup = 'batch'").await;
    let mut store = db.store(Dedup::Batch);
    let delta = |offset, id| Sent { user: None, ..like(offset, id, "") };
    let applied = store.apply(&batch(0, &[delta(0, 1), delta(1, 1), delta(2, 2)])).await.unwrap();
    assert_eq!((applied.applied, applied.duplicates), (2, 1));
    store.apply(&batch(3, &[delta(3, 1)])).await.unwrap();
    assert_eq!(db.counts().await, ["p=3/3"], "this is the price of DEDUP=batch");
    assert_eq!(db.rows("event_handled").await, 0);
}

#[tokio::test]
async fn count_and_hour_updates_are_hot() {
    let db = Fixture::new().await;
    let mut store = db.store(HISTORY);
    for round in 0..50i64 {
        let user: &'static str = Box::leak(format!("u{round}").into_boxed_str());
        store.apply(&batch(round, &[like(round, round as u128, user)])).await.unwrap();
    }
    drop(store);
    let updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
                   WHERE relname IN ('product_like_count', 'product_like_hour')";
    until("50 counts and hours, 49 of them updates, all HOT", async || {
        db.database.rows::<(i64, i64)>(updates).await == [(49, 49), (49, 49)]
    })
    .await;
}

#[tokio::test]
async fn change_counts_in_the_hour_of_its_record() {
    let minutes = |minutes: i64| NOON + minutes * 60_000;
    let at = |offset, time, liked, user| Sent { time: minutes(time), liked, user, ..like(offset, offset as u128, "") };
    let events = [
        at(0, 58, true, Some("u1")),
        at(1, 59, true, Some("u2")),
        at(2, 59, true, Some("u2")), // changes nothing
        at(3, 61, false, Some("u1")),
        at(4, 62, true, None),
        at(5, 63, true, Some("u3")),
        at(6, 59, false, Some("u2")), // the broker's clock stepped back
        Sent { product: "a", ..at(7, 121, true, Some("u1")) },
        Sent { product: "a", ..at(8, 122, false, Some("u1")) },
    ];
    let expected = ["p@0=1", "p@1=1"];
    for cut in 0..=events.len() {
        let db = Fixture::new().await;
        let mut store = db.store(HISTORY);
        for part in [0..cut, cut..events.len()] {
            if !part.is_empty() {
                store.apply(&batch(part.start as i64, &events[part])).await.unwrap();
            }
        }
        let mut hours = db.hours().await;
        hours.retain(|row| row != "a@2=0");
        assert_eq!(hours, expected, "cut at {cut}");
        assert_eq!(db.database.number("SELECT sum(like_count)::bigint FROM product_like_count").await, 2);
    }
}
