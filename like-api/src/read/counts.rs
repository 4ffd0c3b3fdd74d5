//! Counts of products. Concurrent reads share a query, and anonymous reads are served from a cache of
//! one second. Reads of known callers are not: a count read after the caller's own like was counted
//! includes it, on every replica.

use std::time::{Duration, Instant};

use like_events::{ProductId, UserId, pair_key};
use moka::sync::Cache;
use prometheus::{IntCounter, Opts, Registry};
use sqlx::PgPool;

use crate::metrics::counters;
use crate::read::batcher::{BatchLimits, reads_per_query};
use crate::read::batchers::Batchers;
use crate::read::databases::Databases;
use crate::read::error::ReadError;
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries::{self, Count, CountKey};

/// Most products of one read.
pub const IDS_MAX: usize = 100;

/// Largest age of a cached count. The answer's `max-age` is the same, so an anonymous reader is behind
/// the database by two seconds and the time of the query (3 s) at most.
pub const CACHE_AGE: Duration = Duration::from_secs(1);
/// Most products in the cache, some 400 bytes each.
const CACHE_PRODUCTS: u64 = 10_000;

/// Uses half of the pool's connections; receipts and streams have the others.
const LIMITS: BatchLimits =
    BatchLimits { keys: 10 * IDS_MAX, queries: 4, max_delay: Duration::from_millis(10), timeout: READ_TIMEOUT };

pub struct Counts {
    cache: Cache<ProductId, Cached>,
    batchers: Batchers<CountKey, Count>,
    hits: IntCounter,
    misses: IntCounter,
}

#[derive(Clone, Copy)]
struct Cached {
    count: Count,
    /// When the query began, not when it ended: the query may have been slow.
    read_at: Instant,
}

impl Counts {
    /// Reads from `databases` and registers its metrics.
    pub fn new(databases: &Databases, registry: &Registry) -> Self {
        let help = "counts of anonymous reads, by result: hit (cached for a second at most), miss (queried)";
        let requests = Opts::new("likes_count_cache_requests_total", help);
        let [hits, misses] = counters(registry, requests, "result", ["hit", "miss"]);
        let help = "reads of counts that one query answered; as many observations as queries";
        let reads = reads_per_query(registry, "likes_count_query_reads", help);
        let cache = Cache::builder().max_capacity(CACHE_PRODUCTS).time_to_live(CACHE_AGE).build();
        let kept = cache.clone();
        let query = move |pool: PgPool, keys: Vec<CountKey>| query(pool, kept.clone(), keys);
        Self { cache, batchers: Batchers::new(databases, LIMITS, &reads, query), hits, misses }
    }

    /// Returns the counts of `products`, in their order, and which of them `user` likes. For a user those of one database
    /// are one snapshot, taken after the call.
    pub async fn read(&self, products: &[ProductId], user: Option<&UserId>) -> Result<Vec<Count>, ReadError> {
        let Some(user) = user else { return self.anonymous(products).await };
        let key = |product: &ProductId| CountKey {
            product: product.clone(),
            pair: Some(pair_key(product.as_str(), user.as_str())),
        };
        self.batchers.read(products.iter().map(key)).await
    }

    async fn anonymous(&self, products: &[ProductId]) -> Result<Vec<Count>, ReadError> {
        let mut counts = Vec::with_capacity(products.len());
        let mut missed = Vec::new();
        for product in products {
            let cached = self.cache.get(product).filter(|cached| cached.read_at.elapsed() < CACHE_AGE);
            if cached.is_none() {
                missed.push(CountKey { product: product.clone(), pair: None });
            }
            counts.push(cached.map(|cached| cached.count));
        }
        self.hits.inc_by((products.len() - missed.len()) as u64);
        self.misses.inc_by(missed.len() as u64);
        let fresh = if missed.is_empty() { Vec::new() } else { self.batchers.read(missed).await? };
        let mut fresh = fresh.into_iter();
        Ok(counts.into_iter().filter_map(|count| count.or_else(|| fresh.next())).collect())
    }
}

async fn query(pool: PgPool, cache: Cache<ProductId, Cached>, keys: Vec<CountKey>) -> Result<Vec<Count>, ReadError> {
    let began = Instant::now();
    let counts = queries::counts(&pool, &keys).await?;
    for (CountKey { product, pair }, count) in keys.into_iter().zip(&counts) {
        // Only anonymous reads use the cache.
        if pair.is_none() {
            let cached = Cached { count: *count, read_at: began };
            // Queries may end in another order than they began: a cached count must not go back.
            let newer = |kept: &Cached| kept.read_at > began;
            if !cache.get(&product).as_ref().is_some_and(newer) {
                cache.insert(product, cached);
            }
        }
    }
    Ok(counts)
}
