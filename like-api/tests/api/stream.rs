//! Live counts, parsed as a browser's `EventSource` does.

mod ends;
mod events;
mod reading;

use std::time::Duration;

use like_api::config::Config;
use like_testkit::TestDatabase;

use self::events::Events;
use crate::common::{self, Api};

/// A service for streams, which need no Kafka.
async fn set_up(interval: Duration, change: impl FnOnce(&mut Config)) -> (TestDatabase, Api) {
    let database = TestDatabase::create().await;
    let api = start(&database.url, interval, change).await;
    (database, api)
}

async fn start(database_url: &str, interval: Duration, change: impl FnOnce(&mut Config)) -> Api {
    let mut config = common::config("none", database_url);
    "127.0.0.1:1".clone_into(&mut config.kafka.kafka_bootstrap_servers);
    config.streams.stream_interval = interval;
    change(&mut config);
    Api::start(config).await
}

/// Short enough for a test, and long enough for a query.
const SHORT: Duration = Duration::from_millis(50);
/// An interval that no test reaches.
const NEVER: Duration = Duration::from_hours(1);

/// Gives products a count, as a batch of like-aggregator does.
pub async fn count(database: &TestDatabase, products: &[&str], count: i64) {
    let sql = "INSERT INTO product_like_count SELECT id, $2, 0, clock_timestamp() FROM unnest($1::text[]) id
               ON CONFLICT (product_id) DO UPDATE SET like_count = $2, updated_at = excluded.updated_at";
    sqlx::query(sql).bind(products).bind(count).execute(&database.pool).await.unwrap();
}
