//! The expected offset of a partition, and what it says about the next record. Pure.

use std::collections::VecDeque;

use crate::fold::Millis;

/// How many offsets past a hole are kept on the first reading.
const SEEN_MAX: usize = 10_000;

#[derive(Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset that the next record should have.
    pub next: i64,
    /// The timestamp of the record before it, as it was folded, until that record is read again. It distinguishes this log
    /// from one that was cut or created again and has grown past `next`.
    before: Option<Millis>,
    /// The offsets that were seen past a hole on the first reading.
    seen: VecDeque<i64>,
    /// Whether the first reading continues.
    first_reading: bool,
    /// Whether a record past `next` was seen and not taken since the last one that was.
    untaken: bool,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is the next one.
    Take,
    /// It was folded before.
    Skip,
    /// Records may be missing in front of it. Don't take it, and read again from [`Position::reread_from`] once the
    /// consumer has no more records.
    Reread,
    /// It has the offset of the record that was folded last, and isn't that one, whose timestamp this is.
    Differs { folded: Millis },
    /// The record that was folded last was missing on two readings.
    Missing,
}

impl Position {
    /// The next record is `next`; the record before it is not to be compared.
    pub fn at(next: i64) -> Self {
        Self { next, before: None, seen: VecDeque::new(), first_reading: false, untaken: false }
    }

    /// The next record is `next`; the record before it is to be compared, if its timestamp `before` is known.
    pub fn after(next: i64, before: Option<Millis>) -> Self {
        Self { before: before.filter(|_| next > 0), ..Self::at(next) }
    }

    pub fn read_from(&self) -> i64 {
        self.next - i64::from(self.before.is_some())
    }

    /// Whether every record that was seen is taken.
    pub fn is_settled(&self) -> bool {
        !self.untaken
    }

    /// Whether the record before it is still to be compared.
    pub fn is_unproven(&self) -> bool {
        self.before.is_some()
    }

    /// Judges a record by its offset, and the one before the first by its timestamp. Offsets ascend but have holes, such as
    /// the markers of transactions, and a hole looks like a lost record. So the records after a hole are read twice, and
    /// the hole is accepted if both readings have it. The first reading takes in as many holes as it can: where every
    /// second offset is a marker, going back for each would read the log once per record.
    pub fn judge(&mut self, offset: i64, time: Millis) -> Step {
        let expected = self.read_from();
        if offset < expected {
            return Step::Skip;
        }
        if offset > expected {
            self.untaken = true;
            if self.first_reading {
                if self.seen.len() < SEEN_MAX && self.seen.back().is_some_and(|&last| last < offset) {
                    self.seen.push_back(offset);
                }
                return Step::Reread;
            }
            while self.seen.pop_front_if(|seen| *seen < expected).is_some() {}
            if self.seen.front() != Some(&offset) {
                self.seen.clear();
                self.seen.push_back(offset);
                self.first_reading = true;
                return Step::Reread;
            }
        }
        self.first_reading = false;
        match self.before.take() {
            None => Step::Take,
            Some(_) if offset > expected => Step::Missing,
            Some(folded) if folded == time => Step::Skip,
            Some(folded) => Step::Differs { folded },
        }
    }

    /// The record at `offset` is in the batch.
    pub fn taken(&mut self, offset: i64) {
        (self.next, self.untaken) = (offset + 1, false);
    }

    /// Ends the first reading. Returns the offset to read again from, if a hole was seen.
    pub fn reread_from(&mut self) -> Option<i64> {
        std::mem::take(&mut self.first_reading).then(|| self.read_from())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges these offsets, and takes those that are to be taken.
    fn judged(position: &mut Position, offsets: &[i64]) -> Vec<Step> {
        let one = |&offset| {
            let step = position.judge(offset, 0);
            if step == Step::Take {
                position.taken(offset);
            }
            step
        };
        offsets.iter().map(one).collect()
    }

    #[test]
    fn old_records_are_skipped() {
        let steps = judged(&mut Position::at(5), &[4, 5, 5, 6]);
        assert_eq!(steps, [Step::Skip, Step::Take, Step::Skip, Step::Take]);
    }

    #[test]
    fn holes_seen_twice_are_accepted() {
        let mut position = Position::at(5);
        assert_eq!(judged(&mut position, &[7, 8, 10]), [Step::Reread; 3]);
        assert_eq!(position.reread_from(), Some(5));
        assert_eq!(judged(&mut position, &[7, 8, 10]), [Step::Take; 3]);
        assert_eq!((position.next, position.reread_from()), (11, None));
        assert_eq!(judged(&mut position, &[12]), [Step::Reread], "not read before");
    }

    #[test]
    fn delayed_record_is_no_hole() {
        let mut position = Position::at(5);
        assert_eq!(judged(&mut position, &[9]), [Step::Reread]);
        assert_eq!(position.reread_from(), Some(5));
        assert_eq!(judged(&mut position, &[5, 9]), [Step::Take, Step::Take], "nothing lies between 5 and 9, twice");
        let mut position = Position::at(5);
        assert_eq!(judged(&mut position, &[9, 11]), [Step::Reread; 2]);
        assert_eq!(position.reread_from(), Some(5));
        assert_eq!(judged(&mut position, &[7]), [Step::Reread], "the hole in front of 7 is another one");
        assert_eq!(position.reread_from(), Some(5));
        assert_eq!(judged(&mut position, &[9]), [Step::Reread], "and now 7 is missing");
    }

    #[test]
    fn record_before_the_first_is_compared() {
        let mut position = Position::after(5, Some(77));
        assert_eq!(position.read_from(), 4);
        assert_eq!(position.judge(2, 1), Step::Skip, "one before it says nothing");
        assert_eq!(position.judge(4, 77), Step::Skip);
        assert!(!position.is_unproven());
        assert_eq!(position.judge(5, 78), Step::Take);
        assert_eq!(Position::after(5, Some(77)).judge(4, 78), Step::Differs { folded: 77 });
        assert_eq!(Position::after(0, Some(77)), Position::at(0));
        assert_eq!(Position::after(5, None), Position::at(5));
    }

    #[test]
    fn record_before_the_first_is_missing_twice() {
        let mut position = Position::after(5, Some(77));
        assert_eq!(position.judge(6, 80), Step::Reread);
        assert_eq!(position.reread_from(), Some(4));
        assert_eq!(position.judge(6, 80), Step::Missing);
        let mut position = Position::after(5, Some(77));
        assert_eq!(position.judge(6, 80), Step::Reread);
        assert_eq!(position.reread_from(), Some(4));
        assert_eq!((position.judge(4, 77), position.judge(6, 80)), (Step::Skip, Step::Take));
    }
}
