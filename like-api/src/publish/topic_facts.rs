//! What the producer learns about its topic while it runs: the number of partitions from metadata, and refusals for size. A
//! change wakes the topic monitor, which compares the topic with its layout at once and not only every minute. The monitor
//! in turn sets the largest batch that the topic takes.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use tokio::sync::Notify;

pub struct TopicFacts {
    /// 0: the topic doesn't exist. -1: not known yet.
    partitions: AtomicI32,
    /// The topic's `max.message.bytes`; `usize::MAX`: not known yet.
    max_batch: AtomicUsize,
    changed: Notify,
}

impl TopicFacts {
    pub fn unknown() -> Self {
        Self { partitions: AtomicI32::new(-1), max_batch: AtomicUsize::new(usize::MAX), changed: Notify::new() }
    }

    pub fn saw_partitions(&self, partitions: i32) {
        if self.partitions.swap(partitions, Ordering::Relaxed) != partitions {
            self.changed.notify_one();
        }
    }

    /// Takes note of an event of `bytes` that the broker has refused for its batch's size. Returns whether the event alone
    /// is too large for the topic; if not, the topic's limit may have changed.
    pub fn refused_for_size(&self, bytes: usize) -> bool {
        let can_never_fit = bytes > self.max_batch.load(Ordering::Relaxed);
        if !can_never_fit {
            self.changed.notify_one();
        }
        can_never_fit
    }

    /// Sets the topic's limit of a batch. Returns whether it has changed.
    pub(super) fn set_max_batch(&self, bytes: usize) -> bool {
        self.max_batch.swap(bytes, Ordering::Relaxed) != bytes
    }

    /// Waits until something is seen that the topic monitor should look at.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
