//! Counts for many readers: those who come together share a query, and anonymous ones are told
//! what was asked for another a moment ago. Known callers never are: a count read after the
//! reader's own like is counted includes it, through whichever replica.

use std::time::{Duration, Instant};

use like_events::{ProductId, UserId, pair_key};
use moka::sync::Cache;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use sqlx::PgPool;

use crate::read::batcher::{Bounds, Loader, READS};
use crate::read::error::ReadError;
use crate::read::pool::{self, Asked, Count, READ_TIMEOUT};

/// Most products of one read.
pub const IDS_MAX: usize = 100;

/// An anonymous reader is told no count that was asked for longer ago. With the same again as
/// `max-age` of the answer, so that caches on the way keep it as long, what such a reader sees is
/// about two seconds behind the database at most, and what the query took, 3 s at most.
pub const CACHE_AGE: Duration = Duration::from_secs(1);
/// Products whose counts are kept, some 400 bytes each.
const CACHE_PRODUCTS: u64 = 10_000;

/// Half of the pool's connections: receipts and streams have the others.
const BOUNDS: Bounds =
    Bounds { keys: 10 * IDS_MAX, queries: 4, patience: Duration::from_millis(10), timeout: READ_TIMEOUT };

/// All counts.
pub struct Counts {
    cache: Cache<ProductId, Cached>,
    loader: Loader<Asked, Count>,
    hits: IntCounter,
    misses: IntCounter,
}

#[derive(Clone, Copy)]
struct Cached {
    count: Count,
    /// When its query began. Not when it was put here: its answer may have been long on its way.
    asked: Instant,
}

impl Counts {
    /// Read through `pool`; what it counts is made known to `registry`.
    pub fn new(pool: PgPool, registry: &Registry) -> anyhow::Result<Self> {
        let requests = IntCounterVec::new(
            Opts::new(
                "likes_count_cache_requests_total",
                "counts that anonymous readers asked for, by result: hit (a count of at most a second ago), miss (queried)",
            ),
            &["result"],
        )?;
        let reads = Histogram::with_opts(
            HistogramOpts::new(
                "likes_count_query_reads",
                "reads of counts that one query answered; as many observations as queries",
            )
            .buckets(READS.to_vec()),
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(reads.clone()))?;
        let cache = Cache::builder().max_capacity(CACHE_PRODUCTS).time_to_live(CACHE_AGE).build();
        let kept = cache.clone();
        let query = move |asked: Vec<Asked>| query(pool.clone(), kept.clone(), asked);
        Ok(Self {
            cache,
            loader: Loader::new(BOUNDS, reads, query),
            hits: requests.with_label_values(&["hit"]),
            misses: requests.with_label_values(&["miss"]),
        })
    }

    /// The counts of `products`, in their order, and what `user` likes of them. For a user they are
    /// of one moment, after the call.
    pub async fn read(&self, products: &[ProductId], user: Option<&UserId>) -> Result<Vec<Count>, ReadError> {
        let Some(user) = user else { return self.for_anybody(products).await };
        let asked = |product: &ProductId| Asked {
            product: product.clone(),
            pair: Some(pair_key(product.as_str(), user.as_str())),
        };
        self.loader.ask(products.iter().map(asked)).await
    }

    async fn for_anybody(&self, products: &[ProductId]) -> Result<Vec<Count>, ReadError> {
        let mut counts = Vec::with_capacity(products.len());
        let mut missed = Vec::new();
        for product in products {
            let cached = self.cache.get(product).filter(|cached| cached.asked.elapsed() < CACHE_AGE);
            if cached.is_none() {
                missed.push(Asked { product: product.clone(), pair: None });
            }
            counts.push(cached.map(|cached| cached.count));
        }
        self.hits.inc_by((products.len() - missed.len()) as u64);
        self.misses.inc_by(missed.len() as u64);
        let fresh = if missed.is_empty() { Vec::new() } else { self.loader.ask(missed).await? };
        let mut fresh = fresh.into_iter();
        Ok(counts.into_iter().filter_map(|count| count.or_else(|| fresh.next())).collect())
    }
}

async fn query(pool: PgPool, cache: Cache<ProductId, Cached>, asked: Vec<Asked>) -> Result<Vec<Count>, ReadError> {
    let began = Instant::now();
    let counts = pool::counts(&pool, &asked).await?;
    for (Asked { product, pair }, count) in asked.into_iter().zip(&counts) {
        // Where all callers are known nobody would look there.
        if pair.is_none() {
            let cached = Cached { count: *count, asked: began };
            // Two queries may end in another order than they began: an anonymous reader's count
            // must not go back for that.
            let newer = |kept: &Cached| kept.asked > began;
            if !cache.get(&product).as_ref().is_some_and(newer) {
                cache.insert(product, cached);
            }
        }
    }
    Ok(counts)
}
