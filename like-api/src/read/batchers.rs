//! A [`Batcher`] per database, so that a database that is away holds up only reads of what it holds.

use std::hash::Hash;

use futures::future::try_join_all;
use prometheus::Histogram;
use sqlx::PgPool;

use crate::read::batcher::{BatchLimits, Batcher};
use crate::read::databases::{Databases, Placed};
use crate::read::error::ReadError;

pub struct Batchers<K, V> {
    databases: Databases,
    batchers: Vec<Batcher<K, V>>,
}

impl<K, V> Batchers<K, V>
where
    K: Placed + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `query` is [`Batcher::new`]'s, for the database of a pool; so are the limits, for each database.
    pub fn new<F>(
        databases: &Databases,
        limits: BatchLimits,
        reads: &Histogram,
        query: impl Fn(PgPool, Vec<K>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<V>, ReadError>> + Send + 'static,
    {
        let batcher = |pool: PgPool| {
            let query = query.clone();
            Batcher::new(limits, reads.clone(), move |keys| query(pool.clone(), keys))
        };
        let batchers = databases.all().iter().map(|database| batcher(database.pool.clone())).collect();
        Self { databases: databases.clone(), batchers }
    }

    /// Returns the values of `keys`, in their order: those of one database from one query.
    pub async fn read(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<V>, ReadError> {
        let mut by_database: Vec<Vec<K>> = self.batchers.iter().map(|_| Vec::new()).collect();
        let mut owners = Vec::new();
        for key in keys {
            let owner = self.databases.of(&key)?;
            owners.push(owner);
            by_database[owner].push(key);
        }
        let read = async |(batcher, keys): (&Batcher<K, V>, Vec<K>)| {
            if keys.is_empty() { Ok(Vec::new()) } else { batcher.read(keys).await }
        };
        let answers = try_join_all(self.batchers.iter().zip(by_database).map(read)).await?;
        let mut answers: Vec<_> = answers.into_iter().map(Vec::into_iter).collect();
        Ok(owners.into_iter().filter_map(|owner| answers[owner].next()).collect())
    }
}
