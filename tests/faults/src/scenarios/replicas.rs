//! A like that one replica answers with a 504, and that is asked for again through another: with the
//! same key it is the same event, however often the log has it in the end, and a later wish stays
//! the last one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use like_testkit::{Acknowledged, Crowd, Record, TestClient, TestProxy, TestServers, TestService, eventually};
use rand::RngExt;
use rand::seq::SliceRandom;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use uuid::Uuid;

use super::scene::{SHORT_SESSIONS, SOON_AGAIN, kafka_properties, strolling};
use crate::{Outcome, Run};

/// What the broken replica's line does.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Line {
    /// The broker has the event, and its acknowledgement is lost.
    Mute,
    /// The event arrives after everything else, when nobody waits for it any more.
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
    // The one that is asked in vain has nobody else's events on its way, and so certainly sends
    // what it is given. Others go through another one on the same line, or the direct one.
    let mut broken = system.api(&beyond).await;
    let busy = system.api(&beyond).await;
    // Many, since half of what they ask hangs while the line is broken.
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
        // A line is restored and the producer's new connection is made at once: should that be
        // faster than what was late, the broker refuses the late event. Then once more.
        for attempt in 0..5 {
            let wisher = Wisher { user: format!("patient-{n}-{attempt}"), product: format!("asked-again-{n}"), liked };
            let (asked, last) = wisher.asks(how, &mut broken, &direct.client(), &line, &mut record).await;
            faults += 1;
            // Of one partition: what isn't there before the last one doesn't come any more.
            eventually("the last wish is in the log", async || (log.times(last) > 0).then_some(())).await;
            match how {
                Line::Mute => assert!(log.times(asked) > 1, "it was to get there through both replicas"),
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

/// A user with one product, who asks until it is acknowledged, and then changes the wish.
struct Wisher {
    user: String,
    product: String,
    liked: bool,
}

impl Wisher {
    /// Answers the id of the event that was asked for twice, and of the last one of this product.
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
            // Its line is up: what comes next is sent, and so it is not known to be unwritten.
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
            // It was kept from sending it for five seconds: a very busy machine.
            assert!(answer == 503 && patience.elapsed() < Duration::from_mins(1), "{answer}");
            line.restore();
        }
        let asked = take(direct.wish(user, product, *liked, "wish").await);
        let after = direct.wish(user, product, !liked, "after").await;
        // Or it could be one batch that drops the late one.
        direct.wait_until_counted(&after.receipt).await;
        take(after);
        line.restore();
        // Another user's, or it would hide what the late one does.
        let other = format!("{user}-neighbour");
        let last = take(broken.client().wish(&other, product, true, "last").await);
        record.unsettled += 1;
        let likers = [Some(&other), (!liked).then_some(user)];
        record.liked.extend(likers.into_iter().flatten().map(|user| (product.clone(), user.clone())));
        record.users.extend([user.clone(), other]);
        (asked, last)
    }
}

/// How often the log has each event.
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
