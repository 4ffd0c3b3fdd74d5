//! `Prefer: wait` on a receipt: its callers, and the queries that serve them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use like_api::limits::share::Share;
use like_api::read::databases::Databases;
use like_api::read::error::ReadError;
use like_api::read::queries::ReceiptState;
use like_api::read::receipts::{INTERVAL, Receipts, WAITERS_MAX, Waited};
use like_events::Receipt;
use like_testkit::{TestDatabase, eventually, until};
use prometheus::{IntCounter, Registry};
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::common::{NO_DATABASE, TestApp, config, histogram};
use crate::readiness::through_a_proxy;
use crate::wire::Wire;

/// Longer than any test takes: no wait ends by its timeout.
const LONG: Duration = Duration::from_hours(1);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Scene {
    receipts: Arc<Receipts>,
    registry: Registry,
    shutdown: CancellationToken,
    waiting: JoinSet<Result<Waited, ReadError>>,
}

impl Scene {
    fn new(database_url: &str) -> Self {
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let databases = Databases::open(&config("t", database_url));
        let share = Share::new(WAITERS_MAX, IntCounter::new("r", "r").unwrap());
        let receipts = Arc::new(Receipts::new(&databases, &registry, share, shutdown.clone()));
        Self { receipts, registry, shutdown, waiting: JoinSet::new() }
    }

    fn wait(&mut self, partition: i32, offset: i64) {
        let receipts = Arc::clone(&self.receipts);
        let receipt = receipt(partition, offset);
        self.waiting.spawn(async move { receipts.wait(receipt, LONG, CLIENT).await });
    }

    /// The result of the next wait that ends.
    async fn ended(&mut self) -> Waited {
        self.waiting.join_next().await.unwrap().unwrap().unwrap()
    }

    fn waiters(&self) -> f64 {
        let families = self.registry.gather();
        let gauge = families.iter().find(|family| family.name() == "likes_receipt_waiters").unwrap();
        gauge.get_metric()[0].get_gauge().get_value()
    }

    async fn waiters_become(&self, number: f64) {
        until(&format!("{number} wait"), async || self.waiters() == number).await;
    }
}

fn receipt(partition: i32, offset: i64) -> Receipt {
    Receipt { sequence: 1, partition, offset }
}

/// Folds partition 0 up to this offset.
async fn fold(database: &TestDatabase, next_offset: i64) {
    let sql = "UPDATE kafka_offset SET next_offset = $1 WHERE partition = 0";
    sqlx::query(sql).bind(next_offset).execute(&database.pool).await.unwrap();
}

#[tokio::test]
async fn waiters_share_one_query_per_interval() {
    let database = TestDatabase::create().await;
    database.lay_out("t", 2).await;
    let dead = "INSERT INTO dead_letter VALUES ('t', 0, 3, NULL, NULL, 'tombstone', now())";
    sqlx::query(dead).execute(&database.pool).await.unwrap();
    let mut scene = Scene::new(&database.url);
    // Two for each receipt, half of these of another partition.
    for n in 0..1_000 {
        scene.wait(n % 2, i64::from(n / 4));
    }
    scene.waiters_become(1_000.0).await;
    let queries = || histogram(&scene.registry, "likes_receipt_query_reads");
    let (start, before) = (Instant::now(), queries());
    let after = eventually("twenty polls", async || Some(queries()).filter(|now| now.0 >= before.0 + 20)).await;
    let polls = after.0 - before.0;
    assert!(start.elapsed() >= INTERVAL * (polls as u32 - 1), "{polls} polls in {:?}", start.elapsed());
    assert_eq!((after.1 - before.1) as u64, polls * 1_000);

    fold(&database, 250).await;
    let mut told = Vec::new();
    for _ in 0..500 {
        told.push(scene.ended().await);
    }
    let dead = told.iter().filter(|told| **told == Waited::Settled(ReceiptState::DeadLetter)).count();
    let counted = told.iter().filter(|told| **told == Waited::Settled(ReceiptState::Counted)).count();
    assert_eq!((dead, counted), (2, 498));

    // The others wait for the partition that isn't folded. The shutdown ends their waits.
    scene.shutdown.cancel();
    while let Some(told) = scene.waiting.join_next().await {
        assert_eq!(told.unwrap().unwrap(), Waited::Pending);
    }
    assert!(scene.waiters() == 0.0);
}

#[tokio::test]
async fn later_waiters_are_answered_too() {
    let database = TestDatabase::create().await;
    database.lay_out("t", 1).await;
    let mut scene = Scene::new(&database.url);
    for offset in 0..3 {
        scene.wait(0, offset);
        scene.waiters_become(1.0).await;
        fold(&database, offset + 1).await;
        assert_eq!(scene.ended().await, Waited::Settled(ReceiptState::Counted));
    }
}

#[tokio::test]
async fn waiters_are_limited() {
    let scene = Scene::new(NO_DATABASE);
    let wait = |offset| {
        let mut waiting = Box::pin(scene.receipts.wait(receipt(0, offset), LONG, CLIENT));
        let told = (&mut waiting).now_or_never();
        told.map_or_else(|| Ok(waiting), Err)
    };
    let mut waiting: Vec<_> = (0..WAITERS_MAX).map(|n| wait(n as i64).ok().unwrap()).collect();
    assert!(matches!(wait(0), Err(Ok(Waited::TooManyWaiters))));
    waiting.pop();
    let last = wait(0).ok().unwrap();
    assert!(matches!(wait(0), Err(Ok(Waited::TooManyWaiters))));
    assert!(scene.waiters() as usize == WAITERS_MAX);
    drop((waiting, last));
    assert!(scene.waiters() == 0.0);
}

#[tokio::test]
async fn waiting_outlasts_an_outage() {
    let database = TestDatabase::create().await;
    database.lay_out("t", 1).await;
    let (proxy, through) = through_a_proxy(&database).await;
    let mut scene = Scene::new(&through);
    scene.wait(0, 0);
    let soon = Duration::from_millis(10);
    let receipts = Arc::clone(&scene.receipts);
    assert!(matches!(receipts.wait(receipt(0, 0), soon, CLIENT).await, Ok(Waited::Pending)));

    proxy.cut();
    eventually("a wait fails", async || receipts.wait(receipt(0, 0), soon, CLIENT).await.err()).await;
    fold(&database, 1).await;
    proxy.restore();
    assert_eq!(scene.ended().await, Waited::Settled(ReceiptState::Counted));
}

/// A service with one event that isn't folded, and the path of its receipt.
async fn with_a_like() -> (TestApp, String) {
    let api = TestApp::ready(1).await;
    let path = api.like("p1", "u1").await.header("location").to_owned();
    (api, path)
}

#[tokio::test]
async fn prefer_wait_is_applied_and_reported() {
    let (api, path) = with_a_like().await;
    let asked = Instant::now();
    let answer = api.send(Method::GET, &path, &[("Prefer", "respond-async"), ("Prefer", "wait=1")]).await;
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!((answer.status.as_u16(), &answer.json), (200, &json!({"status": "pending"})));
    assert_eq!((answer.header("preference-applied"), answer.header("cache-control")), ("wait=1", "no-store"));

    // Without a record at the receipt there is no wait.
    let beyond = api.send(Method::GET, "/v1/receipts/1-0-1", &[("Prefer", "wait=10")]).await;
    beyond.assert_problem(404, "receipt-unknown");

    let wait = async {
        loop {
            let answer = api.send(Method::GET, &path, &[("Prefer", "wait=10")]).await;
            assert_eq!((answer.status.as_u16(), answer.header("preference-applied")), (200, "wait=10"));
            if answer.json == json!({"status": "counted"}) {
                break;
            }
        }
    };
    let fold = async {
        until("it waits", async || api.port.metric("likes_receipt_waiters", "").await > 0.0).await;
        fold(&api.database, 1).await;
    };
    tokio::join!(wait, fold);

    for (prefer, applied) in [("wait=5", "wait=5"), ("wait=11", "wait=10"), ("wait=0", "wait=0"), ("wait=x", "")] {
        let answer = api.send(Method::GET, &path, &[("Prefer", prefer)]).await;
        assert_eq!(answer.json, json!({"status": "counted"}));
        assert_eq!(answer.header("preference-applied"), applied, "{prefer}");
    }
}

#[tokio::test]
async fn disconnected_caller_stops_waiting() {
    let (api, path) = with_a_like().await;
    let waiters = async || api.port.metric("likes_receipt_waiters", "").await;
    let answered =
        async || api.port.metric("http_server_request_duration_seconds_count", "/v1/receipts/{receipt}").await;
    let mut caller = Wire::to(&api.url);
    caller.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\nPrefer: wait=10\r\n\r\n"));
    until("it waits", async || waiters().await > 0.0).await;
    drop(caller);
    until("it no longer waits", async || waiters().await == 0.0).await;
    // The wait did not end by its timeout.
    assert!(answered().await == 0.0);
}
