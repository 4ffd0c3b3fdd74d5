//! End offsets that the broker is asked for. Callers that ask about a partition at the same time share a request: one that
//! began before a caller came may not know the caller's event, so each waits for one that began later. A partition has one
//! request in flight, whatever the number of callers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Instant;

use tokio::sync::Mutex;

/// When the last request began, and its answer; None: the broker gave none.
type Last = Option<(Instant, Option<i64>)>;

/// By topic and partition.
type LastOf = HashMap<(String, i32), Arc<Mutex<Last>>>;

#[derive(Default)]
pub(super) struct EndOffsets(SyncMutex<LastOf>);

impl EndOffsets {
    /// Returns the answer of a request for this partition that begins after this call.
    pub(super) async fn get(&self, topic: &str, partition: i32, ask: impl AsyncFnOnce() -> Option<i64>) -> Option<i64> {
        let came = Instant::now();
        let last = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry((topic.to_owned(), partition)).or_default())
        };
        let mut last = last.lock().await;
        match *last {
            Some((began, end)) if began > came => end,
            _ => {
                let began = Instant::now();
                let end = ask().await;
                *last = Some((began, end));
                end
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn callers_of_a_partition_share_requests() {
        let (offsets, asked, answer) = (EndOffsets::default(), Cell::new(0), Notify::new());
        let get = |partition| {
            offsets.get("t", partition, async || {
                asked.set(asked.get() + 1);
                answer.notified().await;
                Some(asked.get())
            })
        };
        let answers = async {
            loop {
                answer.notify_waiters();
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::select! {
            found = join_all((0..100).map(|_| get(0)).chain([get(1)])) => found,
            () = answers => unreachable!("it never ends"),
        };
        // The first one's request began before the others came.
        assert_eq!(asked.get(), 3);
        assert!(found[1..100].iter().all(|end| *end == found[1]), "{found:?}");
    }
}
