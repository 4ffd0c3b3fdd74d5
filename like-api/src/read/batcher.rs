//! Reads that arrive together share a query: whatever is asked while one is in flight is collected,
//! each thing once, and asked for in the next. A read never joins a query that began before the
//! read came, so an answer is never older than its question.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use prometheus::Histogram;
use tokio::sync::{Notify, Semaphore, watch};

use crate::read::error::ReadError;

/// Upper bounds of the buckets for reads per query.
pub const READS: [f64; 13] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0];

/// How far a [`Loader`] goes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Things that one query asks for, at most; no single read may ask for more.
    pub keys: usize,
    /// Queries at the same time.
    pub queries: usize,
    /// The next query waits for the one before it, so that more reads share it, but no longer than
    /// this: one that hangs must not stop those after it.
    pub patience: Duration,
    /// How long a read waits for its answer in all.
    pub timeout: Duration,
}

/// Asks for many things at once, on behalf of all who ask.
pub struct Loader<K, V> {
    shared: Arc<Shared<K, V>>,
}

struct Shared<K, V> {
    bounds: Bounds,
    query: Query<K, V>,
    /// Reads per query.
    reads: Histogram,
    forming: Mutex<Option<Arc<Batch<K, V>>>>,
    slots: Semaphore,
    turn: Semaphore,
}

/// Answers one value per key, in their order.
type Query<K, V> = Box<dyn Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>, ReadError>> + Send + Sync>;

/// None until the query has ended.
type Answer<V> = Option<Result<Arc<[V]>, ReadError>>;

/// What one query will ask for.
struct Batch<K, V> {
    asked: Mutex<Asked<K>>,
    full: Notify,
    answer: watch::Sender<Answer<V>>,
}

struct Asked<K> {
    /// With their places in the answer.
    keys: HashMap<K, usize>,
    reads: u32,
}

impl<K, V> Loader<K, V>
where
    K: Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// One that asks by `query` and tells `reads` how many reads each query answered.
    pub fn new<F>(bounds: Bounds, reads: Histogram, query: impl Fn(Vec<K>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<V>, ReadError>> + Send + 'static,
    {
        let shared = Shared {
            bounds,
            query: Box::new(move |keys| Box::pin(query(keys))),
            reads,
            forming: Mutex::new(None),
            slots: Semaphore::new(bounds.queries),
            turn: Semaphore::new(1),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The values of `keys`, in their order and of one query. Whoever stops waiting leaves the
    /// others theirs.
    pub async fn ask(
        &self,
        keys: impl IntoIterator<Item = K, IntoIter: ExactSizeIterator>,
    ) -> Result<Vec<V>, ReadError> {
        let (places, mut answer) = self.join(keys.into_iter());
        let timeout = self.shared.bounds.timeout;
        let Ok(answered) = tokio::time::timeout(timeout, answer.wait_for(Option::is_some)).await else {
            return Err(ReadError::Unavailable(format!("no answer within {timeout:?}")));
        };
        let bug = |what: &str| ReadError::Internal(format!("a shared query {what}"));
        let Some(result) = answered.map_err(|_| bug("ended without an answer"))?.clone() else {
            return Err(bug("said nothing"));
        };
        let values = result?;
        let values: Option<Vec<V>> = places.into_iter().map(|place| values.get(place).cloned()).collect();
        values.ok_or_else(|| bug("has too few answers"))
    }

    /// Adds to the next query, which this starts if there is none.
    fn join(&self, keys: impl ExactSizeIterator<Item = K>) -> (Vec<usize>, watch::Receiver<Answer<V>>) {
        let mut forming = lock(&self.shared.forming);
        if let Some(batch) =
            forming.take_if(|batch| lock(&batch.asked).keys.len() + keys.len() > self.shared.bounds.keys)
        {
            batch.full.notify_one();
        }
        let batch = forming.get_or_insert_with(|| {
            let asked = Mutex::new(Asked { keys: HashMap::new(), reads: 0 });
            let batch = Arc::new(Batch { asked, full: Notify::new(), answer: watch::Sender::new(None) });
            tokio::spawn(run(Arc::clone(&self.shared), Arc::clone(&batch)));
            batch
        });
        let mut asked = lock(&batch.asked);
        asked.reads += 1;
        let mut place = |key| {
            let next = asked.keys.len();
            *asked.keys.entry(key).or_insert(next)
        };
        (keys.map(&mut place).collect(), batch.answer.subscribe())
    }
}

/// Waits for its turn, lets nobody in any more, and asks.
async fn run<K: Eq + Hash, V>(shared: Arc<Shared<K, V>>, batch: Arc<Batch<K, V>>) {
    let Ok(_slot) = shared.slots.acquire().await else { return };
    let _turn = tokio::select! {
        biased;
        turn = shared.turn.acquire() => turn.ok(),
        () = batch.full.notified() => None,
        () = tokio::time::sleep(shared.bounds.patience) => None,
    };
    lock(&shared.forming).take_if(|forming| Arc::ptr_eq(forming, &batch));
    if batch.answer.is_closed() {
        return;
    }
    let Asked { keys, reads } = std::mem::replace(&mut *lock(&batch.asked), Asked { keys: HashMap::new(), reads: 0 });
    let mut keys: Vec<(usize, K)> = keys.into_iter().map(|(key, place)| (place, key)).collect();
    keys.sort_unstable_by_key(|(place, _)| *place);
    shared.reads.observe(f64::from(reads));
    let result = (shared.query)(keys.into_iter().map(|(_, key)| key).collect()).await;
    batch.answer.send_replace(Some(result.map(Arc::from)));
}

/// Held for a few instructions that don't panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::LocalBoxFuture;
    use prometheus::HistogramOpts;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    type Values = Result<Vec<u32>, ReadError>;
    /// What is asked for, and how to answer.
    type Begun = (Vec<u32>, oneshot::Sender<Values>);

    /// The next query that begins, and before a minute has passed.
    async fn next(begun: &mut mpsc::UnboundedReceiver<Begun>) -> Begun {
        tokio::time::timeout(Duration::from_mins(1), begun.recv()).await.expect("a query begins").unwrap()
    }

    /// Within these, time makes no difference.
    const PATIENT: Bounds =
        Bounds { keys: 5, queries: 2, patience: Duration::from_hours(1), timeout: Duration::from_hours(1) };

    /// One whose queries wait for the test to answer them.
    fn loader(bounds: Bounds) -> (Loader<u32, u32>, mpsc::UnboundedReceiver<Begun>, Histogram) {
        let reads = Histogram::with_opts(HistogramOpts::new("reads", "reads")).unwrap();
        let (begin, begun) = mpsc::unbounded_channel();
        let query = move |keys| {
            let (answer, answered) = oneshot::channel();
            begin.send((keys, answer)).unwrap();
            async { answered.await.unwrap() }
        };
        (Loader::new(bounds, reads.clone(), query), begun, reads)
    }

    /// A read that has come and waits.
    fn ask<'a>(loader: &'a Loader<u32, u32>, keys: &[u32]) -> LocalBoxFuture<'a, Values> {
        let mut read: LocalBoxFuture<_> = Box::pin(loader.ask(keys.to_vec()));
        assert!((&mut read).now_or_never().is_none());
        read
    }

    #[tokio::test]
    async fn what_is_asked_for_during_a_query_is_asked_for_in_the_next_each_thing_once() {
        let (loader, mut begun, reads) = loader(PATIENT);
        let first = ask(&loader, &[1]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1]);
        // Also who asks for the same: that query began before the question.
        let (same, others) = (ask(&loader, &[1]), ask(&loader, &[3, 2, 3, 1]));
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
    async fn a_query_that_hangs_stops_nobody_after_it() {
        let (loader, mut begun, _) = loader(Bounds { patience: Duration::ZERO, ..PATIENT });
        let first = ask(&loader, &[1]);
        let (_, hangs) = next(&mut begun).await;
        let second = ask(&loader, &[2]);
        next(&mut begun).await.1.send(Ok(vec![20])).unwrap();
        assert_eq!(second.await.unwrap(), [20]);
        hangs.send(Ok(vec![10])).unwrap();
        assert_eq!(first.await.unwrap(), [10]);
    }

    #[tokio::test]
    async fn a_query_that_is_full_takes_no_more_and_waits_for_no_turn_but_for_a_place() {
        let (loader, mut begun, _) = loader(PATIENT);
        let _first = ask(&loader, &[1]);
        let _hangs = next(&mut begun).await;
        let second = ask(&loader, &[1, 2, 3]);
        let _third = ask(&loader, &[4, 5, 6]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1, 2, 3]);
        // Two are under way: the third is full, too, and waits.
        let _fourth = ask(&loader, &[7, 8, 9]);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(begun.try_recv().is_err());
        answer.send(Ok(vec![10, 20, 30])).unwrap();
        second.await.unwrap();
        assert_eq!(next(&mut begun).await.0, [4, 5, 6]);
    }

    #[tokio::test]
    async fn an_error_reaches_everybody_and_the_next_query_is_another() {
        let (loader, mut begun, _) = loader(PATIENT);
        let reads = [ask(&loader, &[1]), ask(&loader, &[1]), ask(&loader, &[2])];
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [1, 2]);
        answer.send(Err(ReadError::Unavailable("away".to_owned()))).unwrap();
        for read in reads {
            assert!(matches!(read.await, Err(ReadError::Unavailable(why)) if why == "away"));
        }
        let read = ask(&loader, &[1]);
        next(&mut begun).await.1.send(Ok(vec![10])).unwrap();
        assert_eq!(read.await.unwrap(), [10]);
    }

    #[tokio::test]
    async fn whoever_hangs_up_leaves_the_others_their_answer_and_what_nobody_waits_for_is_not_asked() {
        let (loader, mut begun, _) = loader(PATIENT);
        let (gone, stays) = (ask(&loader, &[1]), ask(&loader, &[1]));
        drop(gone);
        let (_, answer) = next(&mut begun).await;
        drop(ask(&loader, &[2]));
        answer.send(Ok(vec![10])).unwrap();
        assert_eq!(stays.await.unwrap(), [10]);
        while lock(&loader.shared.forming).is_some() {
            tokio::task::yield_now().await;
        }
        let read = ask(&loader, &[3]);
        let (keys, answer) = next(&mut begun).await;
        assert_eq!(keys, [3]);
        answer.send(Ok(vec![30])).unwrap();
        assert_eq!(read.await.unwrap(), [30]);
    }

    #[tokio::test]
    async fn whoever_has_waited_too_long_is_told() {
        let (loader, mut begun, _) = loader(Bounds { timeout: Duration::from_millis(20), ..PATIENT });
        let read = ask(&loader, &[1]);
        let _hangs = next(&mut begun).await;
        let behind = ask(&loader, &[1]);
        for read in [read, behind] {
            assert!(matches!(read.await, Err(ReadError::Unavailable(_))));
        }
    }

    #[tokio::test]
    async fn a_query_that_gives_no_answer_or_too_few_is_a_bug_and_no_hang() {
        let (loader, mut begun, _) = loader(PATIENT);
        let read = ask(&loader, &[1]);
        drop(next(&mut begun).await);
        assert!(matches!(read.await, Err(ReadError::Internal(_))));
        let read = ask(&loader, &[1, 2]);
        next(&mut begun).await.1.send(Ok(vec![10])).unwrap();
        assert!(matches!(read.await, Err(ReadError::Internal(_))));
    }
}
