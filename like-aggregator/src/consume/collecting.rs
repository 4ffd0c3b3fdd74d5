//! What is collected and waits for a lane. Each partition has a queue of small batches; what a lane takes of them becomes one
//! batch. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;

use crate::fold::{Batch, DEAD_LETTERS_BYTES, Record};
use crate::traces::Links;

/// A full batch is made of at least so many: more make it fuller, and more to merge.
const PARTS: usize = 16;

#[derive(Default)]
pub(super) struct Collecting {
    queues: BTreeMap<i32, VecDeque<Collected>>,
    records: usize,
    dead_bytes: usize,
    /// The number of batches so far.
    arrived: u64,
    /// Partitions with a hole in their offsets, to be read again from in front of it.
    pub(super) reread: Vec<i32>,
}

#[derive(Default)]
pub(super) struct Collected {
    pub(super) batch: Batch,
    pub(super) links: Links,
    /// Its place among all that were begun.
    arrival: u64,
}

impl Collecting {
    /// Adds a record. Returns the links of its batch.
    pub(super) fn push(&mut self, record: &Record<'_>, believed: i64, max_events: usize) -> &mut Links {
        let queue = self.queues.entry(record.partition).or_default();
        if queue.back().is_none_or(|last| last.batch.is_full(max_events.div_ceil(PARTS))) {
            self.arrived += 1;
            queue.push_back(Collected { arrival: self.arrived, ..Collected::default() });
        }
        let last = queue.back_mut().expect("just added");
        let before = last.batch.dead_bytes();
        last.batch.push(record, believed);
        self.records += 1;
        self.dead_bytes += last.batch.dead_bytes() - before;
        &mut last.links
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether there is no room for another record: there is room for so many batches.
    pub(super) fn is_full(&self, max_events: usize, batches: usize) -> bool {
        self.records >= max_events * batches || self.dead_bytes >= DEAD_LETTERS_BYTES * batches
    }

    /// Takes at most `lanes` batches of partitions that aren't in flight: full ones, and also others if `now`. The partition
    /// that waits longest comes first, with all that it has. So a batch has few partitions, the others are left for other
    /// lanes, and none waits for ever. What fits into one batch becomes one, so that a quiet system makes one transaction
    /// where a busy one makes several.
    pub(super) fn take_due(
        &mut self,
        lanes: usize,
        max_events: usize,
        now: bool,
        in_flight: impl Fn(i32) -> bool,
    ) -> Vec<Collected> {
        let ready = self.queues.iter().filter(|(partition, _)| !in_flight(**partition));
        let mut ready: Vec<_> = ready.filter_map(|(&number, queue)| Some((queue.front()?.arrival, number))).collect();
        ready.sort_unstable();
        let mut ready = ready.into_iter().map(|(_, partition)| partition).peekable();
        let mut taken = Vec::new();
        while taken.len() < lanes && ready.peek().is_some() {
            let left: usize = ready.clone().map(|partition| self.records_of(partition)).sum();
            if !now && left < max_events {
                break;
            }
            taken.push(self.take_one(&mut ready, max_events));
        }
        taken
    }

    fn records_of(&self, partition: i32) -> usize {
        self.queues[&partition].iter().map(|collected| collected.batch.len()).sum()
    }

    /// Takes a batch of the first partitions, and those with it.
    fn take_one(&mut self, ready: &mut Peekable<impl Iterator<Item = i32>>, max_events: usize) -> Collected {
        let mut all = Collected::default();
        while let Some(partition) = ready.peek() {
            let Some(queue) = self.queues.get_mut(partition) else { break };
            let mut began = false;
            while let Some(next) = queue.pop_front_if(|next| all.batch.has_room_for(&next.batch, max_events)) {
                self.records -= next.batch.len();
                self.dead_bytes -= next.batch.dead_bytes();
                all.batch.absorb(next.batch);
                all.links.absorb(next.links);
                began = true;
            }
            let ended = queue.is_empty();
            // Part of it is in flight now.
            ready.next_if(|_| began);
            if !ended {
                break;
            }
        }
        all
    }

    pub(super) fn drop_partition(&mut self, partition: i32) {
        for Collected { batch, .. } in self.queues.remove(&partition).into_iter().flatten() {
            self.records -= batch.len();
            self.dead_bytes -= batch.dead_bytes();
        }
        self.reread.retain(|of| *of != partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4;

    /// That many records of each of these partitions, one after the other.
    fn collecting(records: &[(i32, usize)]) -> Collecting {
        let mut collecting = Collecting::default();
        for &(partition, records) in records {
            for offset in 0..records as i64 {
                collecting.push(&Record { partition, offset, time: 0, key: None, value: None }, offset, MAX);
            }
        }
        collecting
    }

    /// The partitions of each batch that is taken, and its length.
    fn taken(of: &mut Collecting, lanes: usize, now: bool, in_flight: &[i32]) -> Vec<(Vec<i32>, usize)> {
        let batches = of.take_due(lanes, MAX, now, |partition| in_flight.contains(&partition));
        batches.iter().map(|taken| (taken.batch.spans().keys().copied().collect(), taken.batch.len())).collect()
    }

    #[test]
    fn partitions_in_flight_wait() {
        let mut of = collecting(&[(0, 6), (1, 5)]);
        assert_eq!(taken(&mut of, 2, false, &[]), [(vec![0], 4), (vec![1], 4)], "a partition is in one batch");
        assert!(taken(&mut of, 2, true, &[0, 1]).is_empty());
        assert!(taken(&mut of, 2, false, &[0]).is_empty(), "not full");
        assert_eq!(taken(&mut of, 2, true, &[0]), [(vec![1], 1)]);
        assert_eq!(taken(&mut of, 2, true, &[]), [(vec![0], 2)]);
        assert!(of.is_empty());
    }

    #[test]
    fn what_fits_one_batch_becomes_one() {
        let mut of = collecting(&[(0, 2), (1, 1)]);
        assert!(taken(&mut of, 2, false, &[]).is_empty());
        assert_eq!(taken(&mut of, 2, true, &[]), [(vec![0, 1], 3)]);
        assert_eq!(taken(&mut collecting(&[(0, 2), (1, 2)]), 2, false, &[]), [(vec![0, 1], 4)]);
        assert_eq!(taken(&mut collecting(&[(0, 3), (1, 2)]), 2, true, &[]), [(vec![0, 1], 4)], "the rest waits");
    }

    #[test]
    fn busy_partition_starves_no_other() {
        let mut of = collecting(&[(7, 1), (0, 9), (3, 1)]);
        assert_eq!(taken(&mut of, 1, true, &[]), [(vec![0, 7], 4)]);
        assert_eq!(taken(&mut of, 1, true, &[0]), [(vec![3], 1)]);
        assert_eq!(taken(&mut of, 1, true, &[]), [(vec![0], 4)]);
    }

    #[test]
    fn room_is_counted() {
        let mut of = collecting(&[(0, 5), (1, 3)]);
        assert!(of.is_full(MAX, 2) && !of.is_full(MAX, 3));
        of.drop_partition(0);
        assert!(!of.is_full(MAX, 1) && !of.is_empty());
        of.drop_partition(1);
        assert!(of.is_empty());
    }
}
