//! A like gets 504 from one replica and is retried through another. With the same key it is the same
//! event, however often it is in the log, and a later like or unlike stays in effect.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use like_testkit::{Acknowledged, Crowd, Record, TestClient, TestProxy, TestServers, TestService, eventually};
use rand::RngExt;
use rand::seq::SliceRandom;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use uuid::Uuid;

use super::scene::{SHORT_SESSIONS, SOON_AGAIN, kafka_properties, slow_crowd};
use crate::{Outcome, Run};

/// The fault of the broken replica's connection.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Line {
    /// The broker gets the event, and its acknowledgement is lost.
    Mute,
    /// The event arrives after everything else, long after the 504.
    Late,
}

pub async fn replicas(run: Run) -> Outcome {
    let servers = TestServers::start().await;
    let line = servers.kafka_proxy().await;
    let mut system = servers.system().await;
    let _settings = kafka_properties(&mut system, &[SHORT_SESSIONS, SOON_AGAIN].concat());
    system.setup(&["--partitions", "8"]).await;
    let direct = system.api(&[]).await;
    let through = line.addr.to_string();
    let beyond = [("KAFKA_BOOTSTRAP_SERVERS", through.as_str())];
    // The broken replica has no other events in flight, so it certainly sends the event. The crowd uses
    // another replica on the same connection and a direct one.
    let mut broken = system.api(&beyond).await;
    let busy = system.api(&beyond).await;
    // Many, because half of their requests hang while the connection is broken.
    let crowd = Crowd { users: 30, ..slow_crowd(run) }.start(&[busy.client(), direct.client()]);
    let _aggregator = system.aggregator(&[]).await;
    let mut log = Log::of(&servers.kafka, &system.topic);

    let mut dice = run.dice(3);
    let mut rounds = [Line::Mute, Line::Late].repeat(run.pick(1, 6));
    rounds.shuffle(&mut dice);
    let rounds: Vec<_> = rounds.into_iter().map(|line| (line, dice.random())).collect();
    let mut record = Record::default();
    let (mut faults, mut late) = (0, 0);
    for (n, (how, liked)) in (0..).zip(rounds) {
        // If the producer's new connection is faster than the delayed bytes, the broker rejects the
        // delayed event. Then try again.
        for attempt in 0..5 {
            let retrier =
                Retrier { user: format!("patient-{n}-{attempt}"), product: format!("asked-again-{n}"), liked };
            let (asked, last) = retrier.asks(how, &mut broken, &direct.client(), &line, &mut record).await;
            faults += 1;
            // Of the same partition: an event that is not before the last one will not come.
            eventually("the last event is in the log", async || (log.times(last) > 0).then_some(())).await;
            match how {
                Line::Mute => assert!(log.times(asked) > 1, "the event should be in the log through both replicas"),
                Line::Late => late += log.times(asked) - 1,
            }
            if log.times(asked) > 1 {
                break;
            }
        }
    }
    assert!(late > 0, "no delayed event arrived");
    let record = record.and(crowd.finish().await);
    super::scene::outcome(&record, &system, &direct, faults).await
}

/// A user who likes one product until it is acknowledged, and then takes it back (or vice versa).
struct Retrier {
    user: String,
    product: String,
    liked: bool,
}

impl Retrier {
    /// Returns the id of the event that was sent twice, and of the last one of this product.
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
            // Shows that the connection is up, so that the next event is sent and its outcome is unknown.
            take(broken.client().wish(user, product, !liked, "before").await);
            match how {
                Line::Mute => line.mute(),
                Line::Late => line.hold(),
            }
            let request = if *liked { broken.http.put(&url) } else { broken.http.delete(&url) };
            let request = request.header("X-User-Id", user).header("Idempotency-Key", "wish");
            let answer = request.send().await.expect("an answer").status();
            if answer == 504 {
                break;
            }
            // 503: it could not send the event within five seconds on a very busy machine.
            assert!(answer == 503 && patience.elapsed() < Duration::from_mins(1), "{answer}");
            line.restore();
        }
        let asked = take(direct.wish(user, product, *liked, "wish").await);
        let after = direct.wish(user, product, !liked, "after").await;
        // Otherwise a single batch could drop the delayed duplicate.
        direct.wait_until_counted(&after.receipt).await;
        take(after);
        line.restore();
        // Another user's, which does not hide the effect of the delayed event.
        let other = format!("{user}-neighbour");
        let last = take(broken.client().wish(&other, product, true, "last").await);
        record.unsettled += 1;
        let likers = [Some(&other), (!liked).then_some(user)];
        record.liked.extend(likers.into_iter().flatten().map(|user| (product.clone(), user.clone())));
        record.users.extend([user.clone(), other]);
        (asked, last)
    }
}

/// Counts how often each event is in the log.
struct Log {
    consumer: BaseConsumer,
    times: BTreeMap<Uuid, usize>,
}

impl Log {
    fn of(kafka: &str, topic: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka).set("group.id", "unused").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().expect("consumer");
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(30)).expect("the topic");
        let mut all = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            all.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("an offset");
        }
        consumer.assign(&all).expect("assigned");
        Self { consumer, times: BTreeMap::new() }
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
