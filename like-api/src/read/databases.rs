//! The databases that hold the counts: one, or several that share the topic by partitions. Each has recorded which
//! partitions it holds, so where a product is read is known once the write gate's monitor has read all layouts.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use like_common::database::DatabaseUrl;
use like_common::layout::{Layout, partitions_text};
use like_common::session::Session;
use like_events::{ProductId, Receipt, partition};
use sqlx::PgPool;

use crate::config::Config;
use crate::read::error::ReadError;
use crate::read::pool;

/// Cheap to clone.
#[derive(Clone)]
pub struct Databases(Arc<Inner>);

struct Inner {
    databases: Vec<Database>,
    topics: RwLock<Topics>,
}

pub struct Database {
    pub pool: PgPool,
    /// The pool's session.
    pub session: Session,
}

/// Empty: not read yet.
#[derive(Default)]
struct Topics {
    by_sequence: BTreeMap<i32, Topic>,
    /// The owners of that topic's partitions by which products are placed.
    of_products: Owners,
}

struct Topic {
    name: String,
    owners: Owners,
}

/// The number of the database that holds each partition; None: none does.
type Owners = Vec<Option<usize>>;

/// What is read lies in one partition.
pub trait Placed {
    fn place(&self) -> Place<'_>;
}

pub enum Place<'k> {
    Of(&'k ProductId),
    At(Receipt),
}

impl Placed for ProductId {
    fn place(&self) -> Place<'_> {
        Place::Of(self)
    }
}

impl Placed for Receipt {
    fn place(&self) -> Place<'_> {
        Place::At(*self)
    }
}

impl Databases {
    /// They needn't be reachable yet.
    pub fn open(config: &Config) -> Self {
        Self::of_urls(
            std::iter::once(&config.database.database_url)
                .chain(config.other_databases.iter().flat_map(|others| &others.0)),
        )
    }

    fn of_urls<'u>(urls: impl Iterator<Item = &'u DatabaseUrl>) -> Self {
        let databases = urls.map(|url| Database { pool: pool::open(url), session: pool::session(url) }).collect();
        Self(Arc::new(Inner { databases, topics: RwLock::default() }))
    }

    /// So many databases where nothing listens.
    #[cfg(test)]
    pub fn unreachable(number: usize) -> Self {
        let url = "postgres://likes@127.0.0.1:1/none".parse().unwrap();
        Self::of_urls(std::iter::repeat_n(&url, number))
    }

    pub fn all(&self) -> &[Database] {
        &self.0.databases
    }

    /// Returns the number of the database that holds this.
    pub fn of(&self, key: &impl Placed) -> Result<usize, ReadError> {
        let topics = self.0.topics.read().unwrap_or_else(PoisonError::into_inner);
        let owner = match key.place() {
            Place::Of(product) => (!topics.of_products.is_empty()).then(|| {
                let number = partition(product.as_str().as_bytes(), topics.of_products.len() as i32);
                (number, topics.of_products[number as usize])
            }),
            Place::At(receipt) => {
                let topic = topics.by_sequence.get(&receipt.sequence);
                let owner = topic.and_then(|topic| topic.owners.get(receipt.partition as usize));
                // A topic that was added since: what its partitions have is where that of the earlier ones is.
                let of_products = &topics.of_products;
                let later = || of_products.get(receipt.partition as usize % of_products.len().max(1));
                owner.or_else(later).map(|owner| (receipt.partition, *owner))
            }
        };
        match owner {
            Some((_, Some(owner))) => Ok(owner),
            Some((number, None)) => {
                Err(ReadError::Unavailable(format!("no database of ours holds partition {number}")))
            }
            // No layout yet: one database has everything.
            None if self.all().len() == 1 => Ok(0),
            None => Err(ReadError::Unavailable("it isn't known yet which database holds what".to_owned())),
        }
    }

    /// Takes note of the layouts, one list per database. The error says why those up to `topic` don't make one whole. Later
    /// ones may be those of a `setup` that is still to be run in other databases.
    pub fn laid_out(&self, layouts: &[Vec<Layout>], topic: &str) -> Result<(), String> {
        let (mut topics, mut refused) = (Topics::default(), None);
        let own = layouts.iter().flatten().find(|layout| layout.topic == topic).map(|layout| layout.sequence);
        for (number, layout) in (0..).zip(layouts).flat_map(|(n, of)| of.iter().map(move |layout| (n, layout))) {
            let Layout { sequence, topic, partitions, .. } = layout;
            let mut refuse = |why| {
                if own.is_none_or(|own| *sequence <= own) {
                    refused = Some(why);
                }
            };
            let one = || Topic { name: topic.clone(), owners: vec![None; *partitions as usize] };
            let known = topics.by_sequence.entry(*sequence).or_insert_with(one);
            if known.name != *topic || known.owners.len() != *partitions as usize {
                refuse(format!("the databases' layouts differ: {} and {topic} are both topic {sequence}", known.name));
                continue;
            }
            for held in layout.held() {
                if known.owners[held as usize].replace(number).is_some() {
                    refuse(format!("two databases hold partition {held} of {topic}"));
                }
            }
        }
        let own = topics.by_sequence.values().find(|known| known.name == topic);
        let owners = (0..).zip(own.iter().flat_map(|own| &own.owners));
        let missing: Vec<i32> = owners.filter(|(_, owner)| owner.is_none()).map(|(partition, _)| partition).collect();
        if refused.is_none() && !missing.is_empty() {
            let missing = partitions_text(&missing);
            refused = Some(format!("no database holds partitions {missing} of {topic}: is it in OTHER_DATABASE_URLS?"));
        }
        // A product stays in its database when another topic follows, so any topic tells that all databases have.
        let all = || topics.by_sequence.values().rev();
        let tells = all().find(|topic| topic.owners.iter().all(Option::is_some)).or_else(|| all().next());
        topics.of_products = tells.map(|topic| topic.owners.clone()).unwrap_or_default();
        *self.0.topics.write().unwrap_or_else(PoisonError::into_inner) = topics;
        refused.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn layout(sequence: i32, topic: &str, partitions: i32, held: Option<&[i32]>) -> Layout {
        Layout {
            sequence,
            topic: topic.to_owned(),
            partitions,
            held: held.map(<[i32]>::to_vec),
            closing: false,
            end_offsets: None,
            republished_to: None,
            time_ordered_ids_from: None,
        }
    }

    #[tokio::test]
    async fn keys_belong_to_the_database_of_their_partition() {
        let two = Databases::unreachable(2);
        let product = ProductId::parse("p1").unwrap();
        assert!(two.of(&product).is_err(), "before the layouts are read");
        let first = [layout(1, "t", 2, Some(&[0])), layout(2, "u", 4, Some(&[0, 2]))];
        let second = [layout(1, "t", 2, Some(&[1])), layout(2, "u", 4, Some(&[1, 3]))];
        two.laid_out(&[first.to_vec(), second.to_vec()], "t").unwrap();
        for number in 0..100 {
            let id = format!("p{number}");
            let owner = two.of(&ProductId::parse(&id).unwrap()).unwrap();
            assert_eq!(owner as i32, partition(id.as_bytes(), 4) % 2);
        }
        let at = |sequence, partition| two.of(&Receipt { sequence, partition, offset: 9 }).unwrap();
        assert_eq!([at(1, 0), at(1, 1), at(2, 2), at(2, 3)], [0, 1, 0, 1]);
        assert_eq!([at(1, 2), at(1, 7)], [0, 1], "in no log: any database says so");
        assert_eq!([at(3, 0), at(3, 1), at(3, 6), at(3, 7)], [0, 1, 0, 1], "a topic that follows");
    }

    /// Between the two runs of `setup` that add a topic.
    #[tokio::test]
    async fn topic_that_one_database_has_changes_nothing() {
        let two = Databases::unreachable(2);
        let first = vec![layout(1, "t", 2, Some(&[0])), layout(2, "u", 4, Some(&[0, 2]))];
        let second = vec![layout(1, "t", 2, Some(&[1]))];
        let other = vec![second[0].clone(), layout(2, "v", 2, Some(&[1]))];
        for second in [second, other] {
            two.laid_out(&[first.clone(), second.clone()], "t").unwrap();
            for number in 0..100 {
                let id = format!("p{number}");
                let owner = two.of(&ProductId::parse(&id).unwrap()).unwrap();
                assert_eq!(owner as i32, partition(id.as_bytes(), 2));
            }
            assert!(two.laid_out(&[first.clone(), second], "u").is_err());
        }
    }

    #[tokio::test]
    async fn layouts_must_make_one_whole() {
        let refusal = |one: Layout, other: Layout| {
            Databases::unreachable(2).laid_out(&[vec![one], vec![other]], "t").unwrap_err()
        };
        let twice = refusal(layout(1, "t", 4, Some(&[0, 1])), layout(1, "t", 4, Some(&[1, 2, 3])));
        assert!(twice.contains("two databases hold partition 1 of t"), "{twice}");
        let whole = refusal(layout(1, "t", 4, None), layout(1, "t", 4, Some(&[3])));
        assert!(whole.contains("two databases hold partition 3 of t"), "{whole}");
        let gap = refusal(layout(1, "t", 4, Some(&[0])), layout(1, "t", 4, Some(&[2])));
        assert!(gap.contains("no database holds partitions 1,3 of t"), "{gap}");
        let other = refusal(layout(1, "t", 4, Some(&[0, 1])), layout(1, "t", 8, Some(&[2, 3])));
        assert!(other.contains("layouts differ"), "{other}");
        let one = Databases::unreachable(1);
        let part = one.laid_out(&[vec![layout(1, "t", 1, Some(&[]))]], "t").unwrap_err();
        assert!(part.contains("OTHER_DATABASE_URLS"), "{part}");
        assert!(one.of(&ProductId::parse("p1").unwrap()).is_err(), "a count of 0 would be wrong");
    }
}
