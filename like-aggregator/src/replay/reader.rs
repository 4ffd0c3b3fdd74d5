//! The thread that reads a topic for a replay. It joins no group: it assigns all partitions, reads each from the stored
//! offset to a given end, and sends batches to a worker.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
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

use super::progress::Progress;
use crate::apply::worker::{Command, Event};
use crate::consume::position::{Position, Step};
use crate::consume::{GroupContext, record};
use crate::fold::Batch;
use crate::traces::Links;

const POLL: Duration = Duration::from_millis(50);
/// How long is read before holes are looked at again.
const TURN: Duration = Duration::from_millis(5);
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
/// No record for this long, and the broker answers: there is none.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) struct Reader {
    pub(super) config: ClientConfig,
    pub(super) topic: String,
    pub(super) ends: Vec<i64>,
    pub(super) max_events: usize,
    pub(super) orders: UnboundedSender<Command>,
    pub(super) answers: Receiver<Event>,
    pub(super) progress: Arc<Progress>,
    pub(super) stop: CancellationToken,
}

type Consumed = BaseConsumer<GroupContext>;

/// Where the partitions that aren't read to their ends stand.
type Open = BTreeMap<i32, Position>;

impl Reader {
    /// Reads until all partitions are folded to their ends.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut open = self.stand()?;
        let all: i64 = self.ends.iter().sum();
        self.progress.found(all - open.iter().map(|(p, at)| self.ends[*p as usize] - at.next).sum::<i64>());
        while !open.is_empty() && !self.read(open)? {
            // A batch was given back: its COMMIT was not answered, and it may have gone through.
            open = self.stand()?;
        }
        Ok(())
    }

    /// Where the schema stands, of what isn't at its end.
    fn stand(&self) -> anyhow::Result<Open> {
        self.order(Command::Offsets((0..self.ends.len() as i32).collect()))?;
        let stored = loop {
            match self.answer()? {
                Event::Offsets(_, stored) => break stored,
                Event::Fatal(error) => return Err(error),
                _ => {} // not expected here
            }
        };
        if stored.len() != self.ends.len() {
            bail!("kafka_offset has {} rows for {} partitions", stored.len(), self.ends.len());
        }
        let open = stored.into_iter().filter(|s| s.next_offset < self.ends[s.partition as usize]);
        Ok(open.map(|s| (s.partition, Position::at(s.next_offset))).collect())
    }

    /// Reads the `open` partitions. Returns false when a batch was fenced: then all of them are rewound.
    fn read(&self, mut open: Open) -> anyhow::Result<bool> {
        let consumer: Consumed = self.config.create_with_context(GroupContext::default()).context("Kafka consumer")?;
        let mut list = TopicPartitionList::new();
        for (&partition, position) in &open {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(position.next))?;
        }
        consumer.incremental_assign(&list).context("assigning")?;
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
                // With our own token: a replay that is stopped doesn't wait for a database.
                self.order(Command::Apply(mem::take(&mut collecting), Links::default(), self.stop.clone()))?;
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
                if let Some(from) = position.reread_from() {
                    consumer.seek(&self.topic, partition, Offset::Offset(from), KAFKA_TIMEOUT).context("seeking")?;
                }
            }
        }
    }

    /// Takes what there is, for a moment; false: there was nothing.
    fn take_some(&self, consumer: &Consumed, open: &mut Open, collecting: &mut Batch) -> anyhow::Result<bool> {
        let turn = Instant::now();
        let mut timeout = POLL;
        for taken in 0u32.. {
            match consumer.poll(mem::take(&mut timeout)) {
                Some(Ok(message)) => self.take(consumer, open, collecting, &message)?,
                Some(Err(error)) => self.failed(&error)?,
                None => return Ok(taken > 0),
            }
            let turn_over = taken % 64 == 0 && turn.elapsed() >= TURN;
            if turn_over || open.is_empty() || collecting.is_full(self.max_events) {
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
        // Another one was fetched ahead, of a partition that is read to its end.
        let Some(position) = open.get_mut(&partition) else { return Ok(()) };
        if position.judge(record.offset, record.time) != Step::Take {
            return Ok(());
        }
        let end = self.ends[partition as usize];
        if record.offset >= end {
            bail!("partition {partition} has no record from {} to {end}, though it is folded so far", position.next);
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

    /// Waits for the batch in flight; false: it isn't known to be applied.
    fn applied(&self) -> anyhow::Result<bool> {
        loop {
            match self.answer()? {
                Event::Applied(spans) => {
                    self.progress.committed(spans.iter().map(|(_, span)| span.next - span.believed).sum());
                    return Ok(true);
                }
                Event::Rewind(_) => return Ok(false),
                Event::Fatal(error) => return Err(error),
                _ => {} // not expected here
            }
        }
    }

    /// What is silent may be a broker that is away, and then it is waited for.
    fn explain_silence(&self, consumer: &Consumed, open: &Open) -> anyhow::Result<()> {
        for (&partition, position) in open {
            match consumer.fetch_watermarks(&self.topic, partition, KAFKA_TIMEOUT) {
                Ok((start, end)) => bail!(
                    "partition {partition} is folded up to {}, and no record from {} on comes; its log goes from {start} \
                     to {end}",
                    self.ends[partition as usize],
                    position.next
                ),
                Err(error) => warn!(%error, partition, "no record comes: waiting for Kafka"),
            }
        }
        Ok(())
    }

    /// Errors of brokers and network pass; librdkafka reports them while it tries again.
    fn failed(&self, failure: &KafkaError) -> anyhow::Result<()> {
        match failure {
            KafkaError::MessageConsumptionFatal(code) => Err(anyhow!("the Kafka consumer can't go on: {code}")),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                Err(anyhow!("a part of {} that is still to be folded is no longer in the log", self.topic))
            }
            _ => {
                warn!(error = %failure, "Kafka");
                Ok(())
            }
        }
    }

    fn order(&self, order: Command) -> anyhow::Result<()> {
        self.orders.send(order).map_err(|_| anyhow!("the worker has ended"))
    }

    fn answer(&self) -> anyhow::Result<Event> {
        self.answers.recv().map_err(|_| anyhow!("the worker has ended"))
    }
}
