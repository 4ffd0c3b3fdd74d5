//! What a batch costs PostgreSQL: as many statements for a hundred events as for five thousand,
//! counted by PostgreSQL itself.

use std::str::FromStr;
use std::time::Duration;

use like_aggregator::apply::transaction::Store;
use like_aggregator::fold::{Batch, Dedup, Record};
use like_common::database::{DatabaseUrl, SCHEMA};
use like_testkit::{TestDatabase, event};
use sqlx::PgPool;

/// First likes, changes, clicks that change nothing, deltas, repeats and dead letters, in the
/// same proportions whatever the number of events: every statement that a batch can need.
fn batch(events: i64, believed: i64, name: &str) -> Batch {
    let time = 1_795_000_000_000;
    let mut batch = Batch::default();
    let mut last = Vec::new();
    for n in 0..events {
        let product = format!("product-{}", n % 10);
        let (new, old) = (format!("{name}-{n}"), format!("old-{n}"));
        let value = match n % 10 {
            // What is repeated is the record before it: a delta of product-2.
            3 => last,
            2 => event(&product, None, true).to_json(),
            0 | 1 => event(&product, Some(&old), name != "large").to_json(),
            9 => b"no event".to_vec(),
            _ => event(&product, Some(&new), true).to_json(),
        };
        let key = if n % 10 == 3 { "product-2".to_owned() } else { product };
        let (key, shown) = (Some(key.as_bytes()), Some(value.as_slice()));
        batch.push(&Record { partition: 0, offset: believed + n, time, key, value: shown }, believed + n);
        last = value;
    }
    batch
}

/// Statements executed in this database so far, but for those that ask.
async fn statements(pool: &PgPool) -> i64 {
    let sql = "SELECT coalesce(sum(calls), 0)::bigint FROM public.pg_stat_statements
               WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND query NOT LIKE '%pg_stat_statements%'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_batch_takes_as_many_statements_for_5000_events_as_for_100() {
    let database = TestDatabase::create().await;
    sqlx::query("CREATE EXTENSION pg_stat_statements SCHEMA public").execute(&database.pool).await.unwrap();
    sqlx::query("INSERT INTO fold (fold_version) VALUES ($1)")
        .bind(like_aggregator::fold::FOLD_VERSION)
        .execute(&database.pool)
        .await
        .unwrap();
    database.lay_out("t", 1).await;
    let url = DatabaseUrl::from_str(&database.url).unwrap();
    let mut store = Store::new(&url, SCHEMA, "t", Dedup::History(Duration::from_hours(48)));

    // The first one connects and makes the window of event_handled; the users named old like.
    let mut next = 5_000;
    store.apply(&batch(next, 0, "first")).await.unwrap();
    let mut taken = Vec::new();
    for (events, name) in [(100, "small"), (5_000, "large")] {
        // The small batch unlikes for some of them, the large one for all: both change rows.
        if name == "small" {
            sqlx::query("UPDATE product_like SET liked = false WHERE user_id = 'old-1'")
                .execute(&database.pool)
                .await
                .unwrap();
        }
        let before = statements(&database.pool).await;
        let applied = store.apply(&batch(events, next, name)).await.unwrap();
        next += events;
        let took = statements(&database.pool).await - before;
        assert_eq!(applied.duplicates as i64, events / 10, "{applied:?}");
        assert!(applied.applied as i64 >= events / 2, "{applied:?}");
        assert_eq!(took as u64, applied.statements, "what likes_sql_statements_total says of {events} events");
        taken.push(took);
    }
    assert_eq!(taken[0], taken[1], "statements for 100 and for 5,000 events");
    assert!(taken[1] <= 12, "{taken:?}: a handful");
}
