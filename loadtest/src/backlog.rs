//! A log to be drained: a topic filled from a seed, and what its counts must be.

use clap::ValueEnum;

use crate::database::Database;
use crate::generate::{Generator, Shape, product_id};
use crate::log;
use crate::reference::{Range, Reference, Repeats};

/// What is measured: both ways to drop repeats, events of users and delta events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// DEDUP=history, events of users.
    HistoryUser,
    /// DEDUP=history, delta events.
    HistoryDelta,
    /// DEDUP=batch, events of users.
    BatchUser,
    /// DEDUP=batch, delta events.
    BatchDelta,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::HistoryUser, Self::HistoryDelta, Self::BatchUser, Self::BatchDelta];

    /// `DEDUP`, and what it leaves certain.
    pub fn dedup(self) -> (&'static str, Repeats) {
        match self {
            Self::HistoryUser | Self::HistoryDelta => ("history", Repeats::Dropped),
            Self::BatchUser | Self::BatchDelta => ("batch", Repeats::Perhaps),
        }
    }

    /// Whether the events have users.
    pub fn of_users(self) -> bool {
        matches!(self, Self::HistoryUser | Self::BatchUser)
    }

    /// As in settings: history-user, …
    pub fn name(self) -> String {
        self.to_possible_value().expect("no mode is hidden").get_name().to_owned()
    }
}

/// A filled topic.
pub struct Backlog {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// What was asked for.
    pub shape: Shape,
    /// Where each partition ends.
    pub ends: Vec<i64>,
    reference: Reference,
}

impl Backlog {
    /// Makes the topic and fills it.
    pub async fn fill(kafka: &str, topic: &str, partitions: i32, shape: Shape) -> anyhow::Result<Self> {
        log::create(kafka, topic, partitions).await?;
        let mut reference = Reference::new(shape.products);
        let ends = log::fill(kafka, topic, Generator::new(shape).inspect(|event| reference.add(event)))?;
        Ok(Self { topic: topic.to_owned(), partitions, shape, ends, reference })
    }

    /// How many of the events are repeats.
    pub fn repeats(&self) -> u64 {
        self.reference.repeats
    }

    /// Compares every product with a database in which each had `base` likes before, by other
    /// users; says where they differ.
    pub async fn is_exact(&self, database: &mut Database, repeats: Repeats, base: i64) -> anyhow::Result<bool> {
        let counted = database.counts().await?;
        let mut wrong = 0;
        let mut found = counted.iter().peekable();
        for (number, Range { least, most }) in (0..).zip(self.reference.counts(repeats)) {
            let product = product_id(number);
            let row = found.next_if(|row| row.product_id == product);
            let (count, deltas, likers) = row.map_or((0, 0, 0), |row| (row.count, row.deltas, row.likers));
            let of_users = self.shape.users.is_some();
            let parts =
                if of_users { deltas == 0 && count == likers } else { deltas + base == count && likers == base };
            if !(parts && (least + base..=most + base).contains(&count)) {
                wrong += 1;
                if wrong <= 5 {
                    eprintln!(
                        "WRONG: {product} has {count} likes, {likers} likers, {deltas} by delta events: should be \
                         {least} to {most} beside {base}"
                    );
                }
            }
        }
        if let Some(row) = found.next() {
            wrong += 1;
            eprintln!("WRONG: {row:?} is no product of the log");
        }
        Ok(wrong == 0)
    }
}
