//! A batch that is too large for the database is applied in halves, with the same result.

use std::sync::mpsc;
use std::time::Duration;

use crate::common::{DEDUP_WINDOW, NOON, RECORD_FOLD, store};
use like_aggregator::apply::worker::{Command, Event, Worker};
use like_aggregator::fold::{Batch, Dedup, Record};
use like_aggregator::metrics::Metrics;
use like_aggregator::traces::Links;
use like_common::health::Health;
use like_testkit::{TestDatabase, event};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

/// Refuses more than ten new likes at once, as a server does that is short of time or memory, and keeps
/// each row that `kafka_offset` ever had.
async fn add_triggers(database: &TestDatabase, sqlstate: &str) {
    let sql = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF (SELECT count(*) FROM new) > 10 THEN RAISE 'too many' USING ERRCODE = '{sqlstate}'; END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER refuse AFTER INSERT ON product_like
             REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION refuse();
         CREATE TABLE offsets AS TABLE kafka_offset WITH NO DATA;
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO offsets VALUES (NEW.*);
             RETURN NULL;
         END $$;
         CREATE TRIGGER keep AFTER UPDATE ON kafka_offset FOR EACH ROW EXECUTE FUNCTION keep()"
    );
    database.execute(sql).await;
}

/// Likes of 40 users, every fifth record garbage, over two partitions in turn.
fn batch() -> Batch {
    let mut batch = Batch::default();
    for n in 0..50i64 {
        let (partition, offset) = (n as i32 % 2, n / 2);
        let product = format!("p{partition}");
        let value =
            if n % 5 == 4 { b"garbage".to_vec() } else { event(&product, Some(&format!("u{n}")), true).to_json() };
        let (key, value) = (Some(product.as_bytes()), Some(value.as_slice()));
        batch.push(&Record { partition, offset, time: NOON + n, key, value }, offset);
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batch_is_applied_in_parts() {
    for sqlstate in ["57014", "53200"] {
        let database = TestDatabase::create().await;
        database.lay_out("t", 2).await;
        database.execute(RECORD_FOLD).await;
        add_triggers(&database, sqlstate).await;

        let registry = Registry::new();
        let (events, received) = mpsc::channel();
        let store = store(&database, "t", Dedup::History(DEDUP_WINDOW));
        let worker = Worker::new(0, 50, store, Metrics::new(&registry), &Health::default(), events);
        let (commands, queue) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(worker.run(queue));
        assert!(commands.send(Command::Apply(batch(), Links::default(), CancellationToken::new())).is_ok());
        let spans = tokio::task::spawn_blocking(move || {
            loop {
                match received.recv_timeout(Duration::from_secs(60)).expect("an event").1 {
                    Event::Applied(spans) => return spans,
                    Event::Reconnected => {}
                    Event::Fatal(error) => panic!("{error:#}"),
                    _ => panic!("not applied"),
                }
            }
        });
        let spans: Vec<_> = spans.await.unwrap().iter().map(|(p, span)| (*p, span.believed, span.next)).collect();
        assert_eq!(spans, [(0, 0, 25), (1, 0, 25)], "{sqlstate}: the event covers the whole batch");

        assert_eq!(database.number("SELECT sum(like_count)::bigint FROM product_like_count").await, 40);
        assert_eq!(database.number("SELECT count(*) FROM product_like WHERE liked").await, 40);
        assert_eq!(database.number("SELECT count(*) FROM dead_letter").await, 10);
        assert_eq!(database.number("SELECT count(*) FROM event_handled").await, 40);
        // A process that ends between two parts continues after the last record of the first part, and
        // verifies that record by its time.
        let rows = "SELECT partition, next_offset, (extract(epoch FROM last_record_time) * 1000)::bigint FROM offsets";
        let rows: Vec<(i32, i64, i64)> = database.rows(rows).await;
        for (partition, next, time) in &rows {
            assert_eq!(*time, NOON + 2 * (next - 1) + i64::from(*partition), "{sqlstate}: {partition} at {next}");
        }
        assert!(rows.contains(&(0, 25, NOON + 48)) && rows.contains(&(1, 25, NOON + 49)), "{rows:?}");
        assert!(rows.len() > 2, "{rows:?}: it was not applied in parts");
    }
}
