//! What is collected and waits for a lane. There are as many queues of batches as lanes, and a partition has one of them, so
//! that batches of different queues can be applied side by side. Pure.

use std::collections::VecDeque;

use crate::fold::{Batch, Record};
use crate::traces::Links;

#[derive(Default)]
pub(super) struct Collecting {
    queues: Vec<VecDeque<Collected>>,
    /// The queue that is looked at first.
    first: usize,
    /// Partitions with a hole in their offsets, to be read again from in front of it.
    pub(super) reread: Vec<i32>,
}

#[derive(Default)]
pub(super) struct Collected {
    pub(super) batch: Batch,
    pub(super) links: Links,
}

impl Collecting {
    pub(super) fn new(lanes: usize) -> Self {
        Self { queues: (0..lanes).map(|_| VecDeque::new()).collect(), ..Self::default() }
    }

    /// Adds a record to a queue: to its last batch, or to a new one behind that if it is full. Returns that batch's links.
    pub(super) fn push(&mut self, queue: usize, record: &Record<'_>, believed: i64, max_events: usize) -> &mut Links {
        let queue = &mut self.queues[queue];
        if queue.back().is_none_or(|last| last.batch.is_full(max_events)) {
            queue.push_back(Collected::default());
        }
        let last = queue.back_mut().expect("just added");
        last.batch.push(record, believed);
        &mut last.links
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.queues.iter().flatten().map(|collected| &collected.batch)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches().next().is_none()
    }

    /// Whether there is no room for another record. There is room for a batch per lane, and for one more of partitions that
    /// are in flight.
    pub(super) fn is_full(&self, max_events: usize) -> bool {
        let room = if self.queues.len() == 1 { 1 } else { self.queues.len() + 1 };
        let (mut records, mut full) = (0, 0);
        for batch in self.batches() {
            records += batch.len();
            full += usize::from(batch.is_full(max_events));
        }
        records >= room * max_events || full >= room
    }

    /// Takes the batches that are to be applied now, at most `lanes`: the first of a queue if it is full, and any if `waited`
    /// or if together they fill one. What fits into one batch becomes one, so that a quiet system makes one transaction where
    /// a busy one makes several. Partitions in flight have to wait.
    pub(super) fn take_due(
        &mut self,
        lanes: usize,
        max_events: usize,
        waited: bool,
        in_flight: impl Fn(i32) -> bool,
    ) -> Vec<Collected> {
        let queues = self.queues.len();
        let order = (self.first..self.first + queues).map(|queue| queue % queues);
        let first_batch = |queue: usize| self.queues[queue].front().map(|collected| &collected.batch);
        let is_ready = |batch: &Batch| !batch.spans().keys().any(|&partition| in_flight(partition));
        let ready: Vec<_> =
            order.filter_map(|queue| first_batch(queue).filter(|b| is_ready(b)).map(|b| (queue, b))).collect();
        let records: usize = ready.iter().map(|(_, batch)| batch.len()).sum();
        let is_due = |batch: &Batch| waited || records >= max_events || batch.is_full(max_events);
        let mut due: Vec<_> = ready.iter().filter(|(_, batch)| is_due(batch)).map(|(queue, _)| *queue).collect();
        let as_one = records <= max_events && due.len() > 1;
        due.truncate(if as_one { queues } else { lanes });
        if lanes == 0 || due.is_empty() {
            return Vec::new();
        }
        self.first = due[due.len() - 1] + 1;
        let mut taken = due.into_iter().filter_map(|queue| self.queues[queue].pop_front());
        if !as_one {
            return taken.collect();
        }
        let mut all = taken.next().unwrap_or_default();
        for Collected { batch, links } in taken {
            all.batch.absorb(batch);
            all.links.absorb(links);
        }
        vec![all]
    }

    pub(super) fn drop_partition(&mut self, partition: i32) {
        for queue in &mut self.queues {
            for collected in queue.iter_mut() {
                collected.batch.remove_partition(partition);
                collected.links.forget(partition);
            }
            queue.retain(|collected| !collected.batch.is_empty());
        }
        self.reread.retain(|of| *of != partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4;

    /// Two queues, with that many records of the partitions (queue, partition).
    fn collecting(records: &[(usize, i32, usize)]) -> Collecting {
        let mut collecting = Collecting::new(2);
        for &(queue, partition, records) in records {
            for offset in 0..records as i64 {
                let record = Record { partition, offset, time: 0, key: None, value: None };
                collecting.push(queue, &record, offset, MAX);
            }
        }
        collecting
    }

    fn taken(of: &mut Collecting, lanes: usize, waited: bool, in_flight: &[i32]) -> Vec<usize> {
        let batches = of.take_due(lanes, MAX, waited, |partition| in_flight.contains(&partition));
        batches.iter().map(|collected| collected.batch.len()).collect()
    }

    #[test]
    fn full_batches_go_to_a_lane_each() {
        let mut of = collecting(&[(0, 0, 6), (1, 1, 4)]);
        assert_eq!(taken(&mut of, 2, false, &[]), [4, 4]);
        assert!(taken(&mut of, 2, false, &[]).is_empty(), "not full");
        assert!(taken(&mut of, 2, true, &[0]).is_empty(), "in flight");
        assert_eq!(taken(&mut of, 2, true, &[]), [2]);
        assert!(of.is_empty());
    }

    #[test]
    fn what_fits_one_batch_becomes_one() {
        let mut of = collecting(&[(0, 0, 2), (1, 1, 1)]);
        assert!(taken(&mut of, 2, false, &[]).is_empty());
        assert_eq!(taken(&mut of, 1, true, &[]), [3]);
        assert_eq!(taken(&mut collecting(&[(0, 0, 2), (1, 1, 2)]), 2, false, &[]), [4], "they fill one");
        assert_eq!(taken(&mut collecting(&[(0, 0, 3), (1, 1, 2)]), 2, false, &[]), [3, 2]);
    }

    #[test]
    fn one_lane_serves_the_queues_in_turn() {
        let mut of = collecting(&[(0, 0, 8), (1, 1, 7)]);
        assert!(taken(&mut of, 0, true, &[]).is_empty(), "no lane");
        let turns: Vec<_> = (0..4).map(|_| taken(&mut of, 1, true, &[])[0]).collect();
        assert_eq!(turns, [4, 4, 4, 3]);
    }

    #[test]
    fn room_is_for_three_batches() {
        assert!(!collecting(&[(0, 0, 8), (1, 1, 3)]).is_full(MAX));
        assert!(collecting(&[(0, 0, 8), (1, 1, 4)]).is_full(MAX));
        let mut of = collecting(&[(0, 0, 12)]);
        assert!(of.is_full(MAX));
        of.drop_partition(0);
        assert!(of.is_empty() && !of.is_full(MAX));
    }
}
