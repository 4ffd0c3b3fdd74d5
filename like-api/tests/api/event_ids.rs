//! Event ids of keys that are UUIDv7s: time-ordered, and the same for each retry, also while replicas are upgraded.

use like_api::config::Config;
use like_testkit::{TestDatabase, until};
use reqwest::Method;
use uuid::{Builder, Uuid};

use crate::common::{Api, TestApp, laid_out};
use crate::readiness::through_a_proxy;

/// 2026-11-22T10:00:00Z
const FROM: u64 = 1_795_341_600_000;

/// A key of this time.
fn key(millis: u64) -> Uuid {
    Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid()
}

/// Clicks once; returns the id of the event.
async fn click(api: &Api, method: Method, user: &str, key: &str) -> Uuid {
    let answer = api.send(method, "/v1/products/p/like", &[("X-User-Id", user), ("Idempotency-Key", key)]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json["eventId"].as_str().unwrap().parse().unwrap()
}

/// As `setup` records it, or an operator later.
async fn order_ids(database: &TestDatabase, from: &str) {
    let record = format!(
        "INSERT INTO fold (fold_version, time_ordered_ids_from) VALUES (2, {from})
         ON CONFLICT (only_row) DO UPDATE SET time_ordered_ids_from = {from}"
    );
    database.execute(record).await;
}

/// The first 48 bits: the milliseconds of a UUIDv7.
fn time(id: Uuid) -> u64 {
    (id.as_u128() >> 80) as u64
}

#[tokio::test]
async fn uuidv7_key_leads_the_event_id() {
    let (topic, database) = laid_out(1).await;
    order_ids(&database, "'epoch'").await;
    let api = TestApp::on(topic, database, |_| ()).await;
    // A client may send any time: 1970, and 10889.
    for millis in [FROM, 0, (1 << 48) - 1] {
        let key = key(millis).to_string();
        let first = click(&api, Method::PUT, "u1", &key).await;
        assert_eq!((time(first), first.get_version_num()), (millis, 8));
        assert_eq!(first, click(&api, Method::PUT, "u1", &format!("\"{key}\"")).await);
        for other in [
            click(&api, Method::PUT, "u2", &key).await,
            click(&api, Method::DELETE, "u1", &key).await,
            click(&api, Method::PUT, "u1", &key.replace('7', "8")).await,
        ] {
            assert_ne!(first, other);
        }
    }
}

#[tokio::test]
async fn form_of_an_id_changes_with_its_keys_time() {
    let (topic, database) = laid_out(1).await;
    order_ids(&database, "NULL").await;
    let (proxy, through) = through_a_proxy(&database).await;
    let change = |config: &mut Config| {
        config.database.database_url = through.parse().unwrap();
        config.limits.rate_limit_user = 0.0;
    };
    let api = TestApp::on(topic, database, change).await;
    let click = async |millis| click(&api, Method::PUT, "u1", &key(millis).to_string()).await;
    let earlier = click(FROM - 1).await;
    assert_ne!(time(earlier), FROM - 1);
    assert_ne!(time(click(FROM).await), FROM, "no time is recorded yet");

    order_ids(&api.database, "'2026-11-22T10:00:00Z'").await;
    until("the time is read", async || time(click(FROM).await) == FROM).await;
    assert_eq!(click(FROM - 1).await, earlier, "a retry through any release");

    // The time stays in force while PostgreSQL is away.
    proxy.cut();
    let before = proxy.connections();
    until("the monitor has tried", async || proxy.connections() >= before + 3).await;
    assert_eq!(time(click(FROM).await), FROM);
}
