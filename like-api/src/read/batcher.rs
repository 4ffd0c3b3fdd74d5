//! Batches reads: the keys of reads that arrive while a query is in flight are collected, each once,
//! for the next query. A read never joins a query that began before it, so an answer is never older
//! than its read.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use like_common::metrics::add;
use prometheus::{Histogram, HistogramOpts, Registry};
use tokio::sync::{Notify, Semaphore, watch};

use crate::read::error::ReadError;
use crate::read::lock::lock;

/// Upper limits of the buckets for reads per query.
const READS: [f64; 13] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0];

/// Registers a histogram for a [`Batcher`].
pub fn reads_per_query(registry: &Registry, name: &str, help: &str) -> Histogram {
    add(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(READS.to_vec())))
}

#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most keys of one query; no single read may have more.
    pub keys: usize,
    /// Most queries at the same time.
    pub queries: usize,
    /// The next query waits for the one before it, so that more reads share it, but no longer than
    /// this: a query that hangs must not stop later ones.
    pub max_delay: Duration,
    /// Longest time of a read.
    pub timeout: Duration,
}

/// Runs one query for many reads.
pub struct Batcher<K, V> {
    shared: Arc<Shared<K, V>>,
}

struct Shared<K, V> {
    limits: BatchLimits,
    query: Query<K, V>,
    reads: Histogram,
    next: Mutex<Option<Arc<Batch<K, V>>>>,
    slots: Semaphore,
    /// Held by the running query; see [`BatchLimits::max_delay`].
    running: Semaphore,
}

/// Returns one value per key, in the keys' order.
type Query<K, V> = Box<dyn Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>, ReadError>> + Send + Sync>;

/// None until the query has ended.
type QueryResult<V> = Option<Result<Arc<[V]>, ReadError>>;

struct Batch<K, V> {
    wanted: Mutex<Collected<K>>,
    full: Notify,
    answer: watch::Sender<QueryResult<V>>,
}

struct Collected<K> {
    /// Each key's index in the answer.
    keys: HashMap<K, usize>,
    reads: u32,
}

impl<K, V> Batcher<K, V>
where
    K: Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates a batcher. `reads` observes the number of reads per query.
    pub fn new<F>(limits: BatchLimits, reads: Histogram, query: impl Fn(Vec<K>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<V>, ReadError>> + Send + 'static,
    {
        let shared = Shared {
            limits,
            query: Box::new(move |keys| Box::pin(query(keys))),
            reads,
            next: Mutex::new(None),
            slots: Semaphore::new(limits.queries),
            running: Semaphore::new(1),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the values of `keys`, in their order and from one query. A caller that stops waiting
    /// doesn't affect the others.
    pub async fn read(
        &self,
        keys: impl IntoIterator<Item = K, IntoIter: ExactSizeIterator>,
    ) -> Result<Vec<V>, ReadError> {
        let (places, mut answer) = self.join(keys.into_iter());
        let timeout = self.shared.limits.timeout;
        let Ok(answered) = tokio::time::timeout(timeout, answer.wait_for(Option::is_some)).await else {
            return Err(ReadError::Unavailable(format!("no answer within {timeout:?}")));
        };
        let bug = |what: &str| ReadError::Internal(format!("a batched query {what}"));
        let Some(result) = answered.map_err(|_| bug("ended without an answer"))?.clone() else {
            return Err(bug("returned nothing"));
        };
        let values = result?;
        let values: Option<Vec<V>> = places.into_iter().map(|place| values.get(place).cloned()).collect();
        values.ok_or_else(|| bug("returned too few values"))
    }

    /// Adds keys to the next query, starting one if needed.
    fn join(&self, keys: impl ExactSizeIterator<Item = K>) -> (Vec<usize>, watch::Receiver<QueryResult<V>>) {
        let mut next = lock(&self.shared.next);
        if let Some(batch) = next.take_if(|batch| lock(&batch.wanted).keys.len() + keys.len() > self.shared.limits.keys)
        {
            batch.full.notify_one();
        }
        let batch = next.get_or_insert_with(|| {
            let wanted = Mutex::new(Collected { keys: HashMap::new(), reads: 0 });
            let batch = Arc::new(Batch { wanted, full: Notify::new(), answer: watch::Sender::new(None) });
            tokio::spawn(run(Arc::clone(&self.shared), Arc::clone(&batch)));
            batch
        });
        let mut wanted = lock(&batch.wanted);
        wanted.reads += 1;
        let mut place = |key| {
            let next = wanted.keys.len();
            *wanted.keys.entry(key).or_insert(next)
        };
        (keys.map(&mut place).collect(), batch.answer.subscribe())
    }
}

/// Waits for a free slot, closes the batch to further reads and runs the query.
async fn run<K: Eq + Hash, V>(shared: Arc<Shared<K, V>>, batch: Arc<Batch<K, V>>) {
    let Ok(_slot) = shared.slots.acquire().await else { return };
    let _running = tokio::select! {
        biased;
        running = shared.running.acquire() => running.ok(),
        () = batch.full.notified() => None,
        () = tokio::time::sleep(shared.limits.max_delay) => None,
    };
    lock(&shared.next).take_if(|next| Arc::ptr_eq(next, &batch));
    if batch.answer.is_closed() {
        return;
    }
    let Collected { keys, reads } =
        std::mem::replace(&mut *lock(&batch.wanted), Collected { keys: HashMap::new(), reads: 0 });
    let mut keys: Vec<(usize, K)> = keys.into_iter().map(|(key, place)| (place, key)).collect();
    keys.sort_unstable_by_key(|(place, _)| *place);
    shared.reads.observe(f64::from(reads));
    let result = (shared.query)(keys.into_iter().map(|(_, key)| key).collect()).await;
    batch.answer.send_replace(Some(result.map(Arc::from)));
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::LocalBoxFuture;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    type Values = Result<Vec<u32>, ReadError>;
    /// The keys of a query, and the sender of its result.
    type Begun = (Vec<u32>, oneshot::Sender<Values>);

    /// Waits for the next query, a minute at most.
    async fn next(begun: &mut mpsc::UnboundedReceiver<Begun>) -> Begun {
        tokio::time::timeout(Duration::from_mins(1), begun.recv()).await.expect("a query begins").unwrap()
    }

    /// Limits without an effect of time.
    const UNTIMED: BatchLimits =
        BatchLimits { keys: 5, queries: 2, max_delay: Duration::from_hours(1), timeout: Duration::from_hours(1) };

    /// A batcher whose queries wait for the test's answers.
    fn batcher(limits: BatchLimits) -> (Batcher<u32, u32>, mpsc::UnboundedReceiver<Begun>, Histogram) {
        let reads = Histogram::with_opts(HistogramOpts::new("reads", "reads")).unwrap();
        let (begin, begun) = mpsc::unbounded_channel();
        let query = move |keys| {
            let (answer, answered) = oneshot::channel();
            begin.send((keys, answer)).unwrap();
            async { answered.await.unwrap() }
        };
        (Batcher::new(limits, reads.clone(), query), begun, reads)
    }

    /// A read that waits for its query.
    fn read_of<'a>(batcher: &'a Batcher<u32, u32>, keys: &[u32]) -> LocalBoxFuture<'a, Values> {
        let mut read: LocalBoxFuture<_> = Box::pin(batcher.read(keys.to_vec()));
        assert!((&mut read).now_or_never().is_none());
        read
    }

    #[tokio::test]
    async fn reads_during_a_query_share_the_next() {
        let (batcher, mut begun, reads) = batcher(UNTIMED);
        let first = read_of(&batcher, &[1]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1]);
        // A read of the same key, too: the query began before it.
        let (same, others) = (read_of(&batcher, &[1]), read_of(&batcher, &[3, 2, 3, 1]));
        answer.send(Ok(vec![10])).unwrap();
        assert_eq!(first.await.unwrap(), [10]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1, 3, 2]);
        answer.send(Ok(vec![11, 31, 21])).unwrap();
        assert_eq!(same.await.unwrap(), [11]);
        assert_eq!(others.await.unwrap(), [31, 21, 31, 11]);
        assert_eq!((reads.get_sample_count(), reads.get_sample_sum()), (2, 3.0));
    }

    #[tokio::test]
    async fn hanging_query_does_not_stop_the_next() {
        let (batcher, mut begun, _) = batcher(BatchLimits { max_delay: Duration::ZERO, ..UNTIMED });
        let first = read_of(&batcher, &[1]);
        let (_, hangs) = next(&mut begun).await;
        let second = read_of(&batcher, &[2]);
        next(&mut begun).await.1.send(Ok(vec![20])).unwrap();
        assert_eq!(second.await.unwrap(), [20]);
        hangs.send(Ok(vec![10])).unwrap();
        assert_eq!(first.await.unwrap(), [10]);
    }

    #[tokio::test]
    async fn full_query_waits_for_a_slot_only() {
        let (batcher, mut begun, _) = batcher(UNTIMED);
        let _first = read_of(&batcher, &[1]);
        let _hangs = next(&mut begun).await;
        let second = read_of(&batcher, &[1, 2, 3]);
        let _third = read_of(&batcher, &[4, 5, 6]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1, 2, 3]);
        // Two queries are in flight: the third is full, too, and waits.
        let _fourth = read_of(&batcher, &[7, 8, 9]);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(begun.try_recv().is_err());
        answer.send(Ok(vec![10, 20, 30])).unwrap();
        second.await.unwrap();
        assert_eq!(next(&mut begun).await.0, [4, 5, 6]);
    }

    #[tokio::test]
    async fn error_reaches_every_read_of_its_query() {
        let (batcher, mut begun, _) = batcher(UNTIMED);
        let reads = [read_of(&batcher, &[1]), read_of(&batcher, &[1]), read_of(&batcher, &[2])];
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1, 2]);
        answer.send(Err(ReadError::Unavailable("away".to_owned()))).unwrap();
        for read in reads {
            assert!(matches!(read.await, Err(ReadError::Unavailable(why)) if why == "away"));
        }
        let read = read_of(&batcher, &[1]);
        next(&mut begun).await.1.send(Ok(vec![10])).unwrap();
        assert_eq!(read.await.unwrap(), [10]);
    }

    #[tokio::test]
    async fn dropped_read_is_not_queried() {
        let (batcher, mut begun, _) = batcher(UNTIMED);
        let (gone, stays) = (read_of(&batcher, &[1]), read_of(&batcher, &[1]));
        drop(gone);
        let (_, answer) = next(&mut begun).await;
        drop(read_of(&batcher, &[2]));
        answer.send(Ok(vec![10])).unwrap();
        assert_eq!(stays.await.unwrap(), [10]);
        while lock(&batcher.shared.next).is_some() {
            tokio::task::yield_now().await;
        }
        let read = read_of(&batcher, &[3]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [3]);
        answer.send(Ok(vec![30])).unwrap();
        assert_eq!(read.await.unwrap(), [30]);
    }

    #[tokio::test]
    async fn read_times_out() {
        let (batcher, mut begun, _) = batcher(BatchLimits { timeout: Duration::from_millis(20), ..UNTIMED });
        let read = read_of(&batcher, &[1]);
        let _hangs = next(&mut begun).await;
        let behind = read_of(&batcher, &[1]);
        for read in [read, behind] {
            assert!(matches!(read.await, Err(ReadError::Unavailable(_))));
        }
    }

    #[tokio::test]
    async fn missing_values_are_an_internal_error() {
        let (batcher, mut begun, _) = batcher(UNTIMED);
        let read = read_of(&batcher, &[1]);
        drop(next(&mut begun).await);
        assert!(matches!(read.await, Err(ReadError::Internal(_))));
        let read = read_of(&batcher, &[1, 2]);
        next(&mut begun).await.1.send(Ok(vec![10])).unwrap();
        assert!(matches!(read.await, Err(ReadError::Internal(_))));
    }
}
