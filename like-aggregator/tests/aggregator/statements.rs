//! A batch takes as many statements for a hundred events as for five thousand, counted by PostgreSQL.

use crate::common::{DEDUP_WINDOW, NOON, RECORD_FOLD, store};
use like_aggregator::fold::{Batch, Dedup, Record};
use like_testkit::{TestDatabase, event};

/// First likes, changes, clicks that change nothing, deltas, repeats and dead letters, in the
/// same proportions whatever the number of events: every statement that a batch can need.
fn batch(events: i64, believed: i64, name: &str) -> Batch {
    let mut batch = Batch::default();
    let mut last = Vec::new();
    for n in 0..events {
        let product = format!("product-{}", n % 10);
        let (new, old) = (format!("{name}-{n}"), format!("old-{n}"));
        let value = match n % 10 {
            // A repeat of the record before it: a delta of product-2.
            3 => last,
            2 => event(&product, None, true).to_json(),
            0 | 1 => event(&product, Some(&old), name != "large").to_json(),
            9 => b"no event".to_vec(),
            _ => event(&product, Some(&new), true).to_json(),
        };
        let key = if n % 10 == 3 { "product-2".to_owned() } else { product };
        let (key, shown) = (Some(key.as_bytes()), Some(value.as_slice()));
        batch.push(&Record { partition: 0, offset: believed + n, time: NOON, key, value: shown }, believed + n);
        last = value;
    }
    batch
}

/// Statements executed in this database so far, without this one.
async fn statements(database: &TestDatabase) -> i64 {
    let sql = "SELECT coalesce(sum(calls), 0)::bigint FROM public.pg_stat_statements
               WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND query NOT LIKE '%pg_stat_statements%'";
    database.number(sql).await
}

#[tokio::test]
async fn statements_are_independent_of_size() {
    let database = TestDatabase::create().await;
    database.execute("CREATE EXTENSION pg_stat_statements SCHEMA public").await;
    database.execute(RECORD_FOLD).await;
    database.lay_out("t", 1).await;
    let mut store = store(&database, "t", Dedup::History(DEDUP_WINDOW));

    // The first one connects and makes the window of event_handled; the users named old like.
    let mut next = 5_000;
    store.apply(&batch(next, 0, "first")).await.unwrap();
    let mut taken = Vec::new();
    for (events, name) in [(100, "small"), (5_000, "large")] {
        // The small batch unlikes for some of them, the large one for all: both change rows.
        if name == "small" {
            database.execute("UPDATE product_like SET liked = false WHERE user_id = 'old-1'").await;
        }
        let before = statements(&database).await;
        let applied = store.apply(&batch(events, next, name)).await.unwrap();
        next += events;
        let took = statements(&database).await - before;
        assert_eq!(applied.duplicates as i64, events / 10, "{applied:?}");
        assert!(applied.applied as i64 >= events / 2, "{applied:?}");
        assert_eq!(took as u64, applied.statements, "likes_sql_statements_total for {events} events");
        taken.push(took);
    }
    assert_eq!(taken[0], taken[1], "statements for 100 and for 5,000 events");
    assert!(taken[1] <= 13, "{taken:?}");
}
