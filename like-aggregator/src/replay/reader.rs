//! The thread that reads a topic for a replay. It joins no group: it assigns all partitions, reads each from the stored
//! offset to a given end, and sends batches to a worker.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::apply::worker::{Command, Event};
use crate::consume::position::{Position, Step};
use crate::consume::{GroupContext, record};
use crate::fold::Batch;
use crate::progress::Progress;
use crate::topic::positions;
use crate::traces::Links;

const POLL: Duration = Duration::from_millis(50);
/// How long records are taken before holes are read again.
const ROUND: Duration = Duration::from_millis(5);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
/// If the broker answers and no record arrives for this long, there is none.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) struct Reader {
    pub(super) config: ClientConfig,
    pub(super) topic: String,
    pub(super) ends: Vec<i64>,
    pub(super) max_events: usize,
    pub(super) commands: UnboundedSender<Command>,
    pub(super) events: Receiver<(usize, Event)>,
    pub(super) progress: Arc<Progress>,
    pub(super) folded: Arc<AtomicU64>,
    pub(super) stop: CancellationToken,
}

type Consumed = BaseConsumer<GroupContext>;

/// The positions of the partitions that aren't read to their ends.
type Open = BTreeMap<i32, Position>;

impl Reader {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut open = self.positions()?;
        let all: i64 = self.ends.iter().sum();
        let left: i64 = open.iter().map(|(p, position)| self.ends[*p as usize] - position.next).sum();
        self.progress.found((all - left).cast_unsigned());
        while !open.is_empty() && !self.read(open)? {
            // A batch was rewound, and may be committed if the answer to its COMMIT was lost; or a new consumer is needed.
            open = self.positions()?;
        }
        Ok(())
    }

    /// Reads the stored offsets of the partitions that aren't folded to their ends.
    fn positions(&self) -> anyhow::Result<Open> {
        let asked: Vec<i32> =
            (0..).zip(&self.ends).filter(|(_, end)| **end > 0).map(|(partition, _)| partition).collect();
        if asked.is_empty() {
            return Ok(Open::new());
        }
        self.command(Command::Offsets(asked.clone()))?;
        let stored = loop {
            match self.event()? {
                Event::Offsets(_, stored) => break stored,
                Event::Fatal(error) => return Err(error),
                _ => {} // not expected here
            }
        };
        if stored.len() != asked.len() {
            bail!("kafka_offset has {} rows for {} partitions", stored.len(), asked.len());
        }
        let open = stored.into_iter().filter(|s| s.next_offset < self.ends[s.partition as usize]);
        Ok(open.map(|s| (s.partition, Position::at(s.next_offset))).collect())
    }

    /// Reads the `open` partitions. Returns false when they have to be read again from their stored offsets: a batch was
    /// fenced, or the consumer is of no use any more.
    fn read(&self, mut open: Open) -> anyhow::Result<bool> {
        let consumer: Consumed = self.config.create_with_context(GroupContext::default()).context("Kafka consumer")?;
        let starts = open.iter().map(|(&partition, position)| (partition, position.next));
        consumer.incremental_assign(&positions(&self.topic, starts)?).context("assigning")?;
        let (mut collecting, mut in_flight) = (Batch::default(), false);
        let mut heard = Instant::now();
        loop {
            if self.stop.is_cancelled() {
                bail!("stopped");
            }
            if open.is_empty() || collecting.is_full(self.max_events) {
                if mem::take(&mut in_flight) && !self.applied()? {
                    return Ok(false);
                }
                if collecting.is_empty() {
                    return Ok(true);
                }
                // With the token of this replay: once stopped, it doesn't wait for the database.
                self.command(Command::Apply(mem::take(&mut collecting), Links::default(), self.stop.clone()))?;
                in_flight = true;
                continue;
            }
            if self.take_some(&consumer, &mut open, &mut collecting)? {
                heard = Instant::now();
            } else if heard.elapsed() >= SILENCE {
                self.explain_silence(&consumer, &open)?;
                heard = Instant::now();
            }
            for (&partition, position) in &mut open {
                let Some(from) = position.reread_from() else { continue };
                let sought = consumer.seek(&self.topic, partition, Offset::Offset(from), KAFKA_TIMEOUT);
                if let Err(error) = sought {
                    // As after a change of leaders. A new consumer reads from the stored offsets.
                    warn!(%error, partition, from, "Kafka: reading again by a new consumer");
                    if in_flight {
                        self.applied()?;
                    }
                    return Ok(false);
                }
            }
        }
    }

    /// Takes the records that are there, for a moment. Returns false if there were none.
    fn take_some(&self, consumer: &Consumed, open: &mut Open, collecting: &mut Batch) -> anyhow::Result<bool> {
        let start = Instant::now();
        let mut timeout = POLL;
        for taken in 0u32.. {
            match consumer.poll(mem::take(&mut timeout)) {
                Some(Ok(message)) => self.take(consumer, open, collecting, &message)?,
                Some(Err(error)) => self.failed(&error)?,
                None => return Ok(taken > 0),
            }
            let round_over = taken % 64 == 0 && start.elapsed() >= ROUND;
            if round_over || open.is_empty() || collecting.is_full(self.max_events) {
                break;
            }
        }
        Ok(true)
    }

    fn take(
        &self,
        consumer: &Consumed,
        open: &mut Open,
        collecting: &mut Batch,
        message: &BorrowedMessage<'_>,
    ) -> anyhow::Result<()> {
        let record = record(message);
        let partition = record.partition;
        // A record past the end, which was fetched ahead.
        let Some(position) = open.get_mut(&partition) else { return Ok(()) };
        if position.judge(record.offset, record.time) != Step::Take {
            return Ok(());
        }
        let end = self.ends[partition as usize];
        if record.offset >= end {
            bail!(
                "partition {partition} has no record from {} to {end}, though it was folded up to there",
                position.next
            );
        }
        collecting.push(&record, position.next);
        position.taken(record.offset);
        if position.next >= end {
            open.remove(&partition);
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            consumer.incremental_unassign(&list).context("unassigning")?;
        }
        Ok(())
    }

    /// Waits for the batch in flight. Returns false if it isn't known to be applied.
    fn applied(&self) -> anyhow::Result<bool> {
        loop {
            match self.event()? {
                Event::Applied(spans) => {
                    let count: i64 = spans.iter().map(|(_, span)| span.next - span.believed).sum();
                    self.progress.add(count.cast_unsigned());
                    self.folded.fetch_add(count.cast_unsigned(), Ordering::Relaxed);
                    return Ok(true);
                }
                Event::Rewind(_) => return Ok(false),
                Event::Fatal(error) => return Err(error),
                _ => {} // not expected here
            }
        }
    }

    /// Fails if the log has no more records; an unreachable broker is only logged.
    fn explain_silence(&self, consumer: &Consumed, open: &Open) -> anyhow::Result<()> {
        for (&partition, position) in open {
            match consumer.fetch_watermarks(&self.topic, partition, KAFKA_TIMEOUT) {
                Ok((start, end)) => bail!(
                    "partition {partition} was folded up to {}, and no record from {} on arrives; its log goes from {start} \
                     to {end}",
                    self.ends[partition as usize],
                    position.next
                ),
                Err(error) => warn!(%error, partition, "no record arrives: waiting for Kafka"),
            }
        }
        Ok(())
    }

    /// Errors of brokers and the network are temporary: librdkafka reports them and tries again.
    fn failed(&self, failure: &KafkaError) -> anyhow::Result<()> {
        match failure {
            KafkaError::MessageConsumptionFatal(code) => bail!("the Kafka consumer can't continue: {code}"),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                bail!("a part of {} that is still to be folded is no longer in the log", self.topic)
            }
            _ => warn!(error = %failure, "Kafka"),
        }
        Ok(())
    }

    fn command(&self, command: Command) -> anyhow::Result<()> {
        self.commands.send(command).map_err(|_| anyhow!("the worker has ended"))
    }

    fn event(&self) -> anyhow::Result<Event> {
        self.events.recv().map(|(_, event)| event).map_err(|_| anyhow!("the worker has ended"))
    }
}
