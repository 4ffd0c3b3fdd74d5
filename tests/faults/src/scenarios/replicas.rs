//! A like that one replica answers with 504 is retried through another one: with the same key it is the same event,
//! however often the log holds it, and a later click stays the last one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use like_testkit::{Acknowledged, Crowd, Record, TestClient, TestProxy, TestServers, TestService, reader, until};
use rand::RngExt;
use rand::seq::SliceRandom;
use rdkafka::consumer::BaseConsumer;
use rdkafka::{Message, Offset};
use uuid::Uuid;

use super::scene::{SHORT_SESSIONS, SOON_AGAIN, strolling};
use crate::{Outcome, Run};

const PARTITIONS: i32 = 8;

/// The fault of the broken replica's connection to the broker.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Line {
    /// The broker has the event; its acknowledgement is lost.
    Mute,
    /// The event arrives last, when no request waits for it.
    Late,
}

pub async fn replicas(run: Run) -> Outcome {
    let servers = TestServers::start().await;
    let line = servers.kafka_proxy().await;
    let mut system = servers.system().await;
    let _settings = system.kafka_properties(&[SHORT_SESSIONS, SOON_AGAIN].concat());
    system.setup(&["--partitions", &PARTITIONS.to_string()]).await;
    let direct = system.api(&[]).await;
    let through = line.addr.to_string();
    let beyond = [("KAFKA_BOOTSTRAP_SERVERS", through.as_str())];
    // The broken replica serves this user alone, so that it certainly sends the event. The crowd uses another replica on
    // the same connection, and the direct one.
    let mut broken = system.api(&beyond).await;
    let busy = system.api(&beyond).await;
    // Many users: half of their requests hang while the connection is broken.
    let crowd = Crowd { users: 30, ..strolling(run) }.start(&[busy.client(), direct.client()]);
    let _aggregator = system.aggregator(&[]).await;
    let mut log = Log::of(&servers.kafka, &system.topic);

    let mut dice = run.dice(3);
    let mut rounds = [Line::Mute, Line::Late].repeat(run.pick(1, 6));
    rounds.shuffle(&mut dice);
    let rounds: Vec<_> = rounds.into_iter().map(|line| (line, dice.random())).collect();
    let mut record = Record::default();
    let (mut faults, mut late) = (0, 0);
    for (n, (how, liked)) in (0..).zip(rounds) {
        // After the connection is restored, the producer may reconnect before the late event arrives; the broker then
        // refuses the late event. Try again.
        for attempt in 0..5 {
            let clicker =
                Clicker { user: format!("patient-{n}-{attempt}"), product: format!("asked-again-{n}"), liked };
            let (asked, last) = clicker.asks(how, &mut broken, &direct.client(), &line, &mut record).await;
            faults += 1;
            // All are of one partition: an event that isn't there before the last one won't come.
            until("the last click is in the log", async || log.times(last) > 0).await;
            match how {
                Line::Mute => assert!(log.times(asked) > 1, "the event should arrive through both replicas"),
                Line::Late => late += log.times(asked) - 1,
            }
            if log.times(asked) > 1 {
                break;
            }
        }
    }
    assert!(late > 0, "no event came late");
    let record = record.and(crowd.finish().await);
    super::scene::outcome(&record, &system, &direct, faults).await
}

/// A user who retries one click until it is acknowledged, then clicks again.
struct Clicker {
    user: String,
    product: String,
    liked: bool,
}

impl Clicker {
    /// Returns the id of the retried event and of the last one of this product.
    async fn asks(
        &self,
        how: Line,
        broken: &mut TestService,
        direct: &TestClient,
        line: &TestProxy,
        record: &mut Record,
    ) -> (Uuid, Uuid) {
        let Self { user, product, liked } = self;
        let mut take = |acknowledged: Acknowledged| {
            record.receipts.push(acknowledged.receipt);
            record.event_ids.insert(acknowledged.event_id);
            acknowledged.event_id
        };
        let url = format!("{}/v1/products/{product}/like", broken.url);
        let patience = Instant::now();
        loop {
            broken.wait_until_ready().await;
            // The connection is up, so the next event is sent and its outcome becomes unknown.
            take(broken.client().click(user, product, !liked, "before").await);
            match how {
                Line::Mute => line.mute(),
                Line::Late => line.hold(),
            }
            let request = if *liked { broken.http.put(&url) } else { broken.http.delete(&url) };
            let request = request.header("X-User-Id", user).header("Idempotency-Key", "click");
            let answer = request.send().await.expect("an answer").status();
            if answer == 504 {
                break;
            }
            // A very busy machine: the event was not sent within five seconds.
            assert!(answer == 503 && patience.elapsed() < Duration::from_mins(1), "{answer}");
            line.restore();
        }
        let asked = take(direct.click(user, product, *liked, "click").await);
        let after = direct.click(user, product, !liked, "after").await;
        // Otherwise one batch could hold both and drop the late one.
        direct.wait_until_counted(&after.receipt).await;
        take(after);
        line.restore();
        // By another user: the same user's click would hide the effect of the late one.
        let other = format!("{user}-neighbour");
        let last = take(broken.client().click(&other, product, true, "last").await);
        record.unsettled += 1;
        let likers = [Some(&other), (!liked).then_some(user)];
        record.liked.extend(likers.into_iter().flatten().map(|user| (product.clone(), user.clone())));
        record.users.extend([user.clone(), other]);
        (asked, last)
    }
}

/// Counts how often the log holds each event.
struct Log {
    consumer: BaseConsumer,
    times: BTreeMap<Uuid, usize>,
}

impl Log {
    fn of(kafka: &str, topic: &str) -> Self {
        Self { consumer: reader(kafka, topic, 0..PARTITIONS, Offset::Beginning), times: BTreeMap::new() }
    }

    fn times(&mut self, event: Uuid) -> usize {
        while let Some(record) = self.consumer.poll(Duration::ZERO) {
            let record = record.expect("a record");
            let event = like_events::decode(record.key(), record.payload()).expect("an event");
            *self.times.entry(event.event_id.uuid()).or_default() += 1;
        }
        self.times.get(&event).copied().unwrap_or_default()
    }
}
