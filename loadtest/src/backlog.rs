//! A filled topic, and what its counts must be.

use anyhow::ensure;
use clap::ValueEnum;
use like_aggregator::fold::Dedup;
use like_testkit::{TestDatabase, TestTopic};

use crate::events::{Generator, Shape, product_id};
use crate::expected::{Expected, Repeats};
use crate::records::{Entry, HISTORY, publish};

/// `DEDUP` and the kind of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    HistoryUser,
    HistoryDelta,
    BatchUser,
    BatchDelta,
}

impl Mode {
    /// The value of `DEDUP`.
    pub fn setting(self) -> &'static str {
        if self.dedup() == HISTORY { "history" } else { "batch" }
    }

    /// The same for the service's own code.
    pub fn dedup(self) -> Dedup {
        match self {
            Self::HistoryUser | Self::HistoryDelta => HISTORY,
            Self::BatchUser | Self::BatchDelta => Dedup::Batch,
        }
    }

    fn repeats(self) -> Repeats {
        if self.dedup() == HISTORY { Repeats::Dropped } else { Repeats::Perhaps }
    }

    /// Whether the events have users; otherwise they are delta events.
    pub fn has_users(self) -> bool {
        matches!(self, Self::HistoryUser | Self::BatchUser)
    }

    /// As on the command line: history-user, …
    pub fn name(self) -> String {
        self.to_possible_value().expect("no mode is hidden").get_name().to_owned()
    }
}

/// A topic that holds a generated log.
pub struct Backlog {
    pub topic: TestTopic,
    pub shape: Shape,
    /// The end offset of each partition.
    pub ends: Vec<i64>,
    pub expected: Expected,
}

impl Backlog {
    /// Creates the topic and fills it. Idempotent: with several requests in flight, the retry of one
    /// would otherwise change the order.
    pub async fn fill(partitions: i32, shape: Shape) -> anyhow::Result<Self> {
        let topic = TestTopic::create(partitions).await;
        let mut expected = Expected::new(shape.products);
        let records = Generator::new(shape).inspect(|event| expected.add(event)).map(|event| Entry::from(&event));
        publish(&topic.name, &[("enable.idempotence", "true"), ("compression.type", "lz4")], records)?;
        let ends = topic.end_offsets();
        ensure!(ends.iter().sum::<i64>() == shape.events as i64, "the log lacks some of the events: {ends:?}");
        Ok(Self { topic, shape, ends, expected })
    }

    /// Compares every product with the database; the error names the first differences.
    pub async fn check(&self, database: &TestDatabase, mode: Mode) -> anyhow::Result<()> {
        let offsets: Vec<i64> = sqlx::query_scalar("SELECT next_offset FROM kafka_offset ORDER BY partition")
            .fetch_all(&database.pool)
            .await?;
        ensure!(offsets == self.ends, "kafka_offset differs from the ends of the log");
        let counted = counts(database).await?;
        let mut found = counted.iter().peekable();
        let mut wrong = Vec::new();
        for (number, expected) in (0..).zip(self.expected.counts(mode.repeats())) {
            let product = product_id(number);
            let row = found.next_if(|(id, ..)| *id == product);
            let (count, deltas, likers) =
                row.map_or((0, 0, 0), |(_, count, deltas, likers)| (*count, *deltas, *likers));
            let parts = if mode.has_users() { (0, count) } else { (count, 0) };
            if (deltas, likers) != parts || !expected.contains(&count) {
                wrong
                    .push(format!("{product}: {count} likes, {likers} likers, {deltas} deltas, expected {expected:?}"));
            }
        }
        wrong.extend(found.map(|row| format!("{row:?} is not in the log")));
        ensure!(wrong.is_empty(), "{} products are wrong: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
        Ok(())
    }
}

/// Product, `like_count`, `delta_count`, and the number of users who like it by `product_like`; in
/// product order.
pub async fn counts(database: &TestDatabase) -> anyhow::Result<Vec<(String, i64, i64, i64)>> {
    let sql = "SELECT product_id, coalesce(like_count, 0), coalesce(delta_count, 0), coalesce(likers, 0)
               FROM product_like_count
               FULL JOIN (SELECT product_id, count(*) AS likers FROM product_like WHERE liked GROUP BY product_id)
                    AS likers USING (product_id)
               ORDER BY product_id";
    Ok(sqlx::query_as(sql).fetch_all(&database.pool).await?)
}
