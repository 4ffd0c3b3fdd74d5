//! Where a partition is believed to stand, and what that says of the next record. Pure.

use std::collections::VecDeque;

use crate::fold::batch::Millis;

/// Offsets kept of a first look.
const LOOK: usize = 10_000;

/// The believed position of one partition.
#[derive(Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset that the next record should have.
    pub next: i64,
    /// The timestamp of the record before it, as it was folded, until that record is seen again:
    /// what tells this log from one that was cut or made anew and has grown past `next`.
    before: Option<Millis>,
    /// The offsets that were seen beyond a hole, at the first look.
    seen: VecDeque<i64>,
    /// The first look goes on.
    looking: bool,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is the next one.
    Take,
    /// It was folded before.
    Skip,
    /// Something may be missing in front of it: don't take it, and look again from
    /// [`Position::look_again`] once there is nothing more to see.
    Look,
    /// It stands where the record stood that was folded last, and isn't that one.
    Differs {
        /// The timestamp of the one that was folded.
        folded: Millis,
    },
    /// The record that was folded last isn't there; twice it was not.
    Missing,
}

impl Position {
    /// A partition whose next record is `next`; nothing is known of the record before it, or it is
    /// certain.
    pub fn at(next: i64) -> Self {
        Self { next, before: None, seen: VecDeque::new(), looking: false }
    }

    /// The same, and the record before it was written at `before`: still to be compared.
    pub fn after(next: i64, before: Option<Millis>) -> Self {
        Self { before: before.filter(|_| next > 0), ..Self::at(next) }
    }

    /// Where reading has to begin.
    pub fn read_from(&self) -> i64 {
        self.next - i64::from(self.before.is_some())
    }

    /// Whether the record before it is still to be compared.
    pub fn is_unproven(&self) -> bool {
        self.before.is_some()
    }

    /// Judges a record by its offset, and the one before the first by its time. Offsets ascend but
    /// have holes (a transaction's marker, for one), and a hole looks like a record lost on the
    /// way. So what comes behind a hole is looked at twice, and a hole is believed when it is there
    /// both times. As much as there is to see is seen at the first look: where every second offset
    /// is a marker, going back for each would read the log once per record.
    pub fn judge(&mut self, offset: i64, time: Millis) -> Step {
        let expected = self.read_from();
        if offset < expected {
            return Step::Skip;
        }
        if offset > expected {
            if self.looking {
                if self.seen.len() < LOOK && self.seen.back().is_some_and(|&last| last < offset) {
                    self.seen.push_back(offset);
                }
                return Step::Look;
            }
            while self.seen.pop_front_if(|seen| *seen < expected).is_some() {}
            if self.seen.front() != Some(&offset) {
                self.seen.clear();
                self.seen.push_back(offset);
                self.looking = true;
                return Step::Look;
            }
        }
        self.looking = false;
        match self.before.take() {
            None => Step::Take,
            Some(_) if offset > expected => Step::Missing,
            Some(folded) if folded == time => Step::Skip,
            Some(folded) => Step::Differs { folded },
        }
    }

    /// The record at `offset` is in the batch.
    pub fn taken(&mut self, offset: i64) {
        self.next = offset + 1;
    }

    /// The first look is over: from where to look again. None: there is nothing to look for.
    pub fn look_again(&mut self) -> Option<i64> {
        std::mem::take(&mut self.looking).then(|| self.read_from())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges these offsets; those that are to be taken are.
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
    fn records_are_taken_in_order_and_old_ones_skipped() {
        let steps = judged(&mut Position::at(5), &[4, 5, 5, 6]);
        assert_eq!(steps, [Step::Skip, Step::Take, Step::Skip, Step::Take]);
    }

    #[test]
    fn holes_are_believed_when_they_are_seen_twice_and_one_look_back_is_enough_for_all() {
        let mut position = Position::at(5);
        assert_eq!(judged(&mut position, &[7, 8, 10]), [Step::Look; 3]);
        assert_eq!(position.look_again(), Some(5));
        assert_eq!(judged(&mut position, &[7, 8, 10]), [Step::Take; 3]);
        assert_eq!((position.next, position.look_again()), (11, None));
        assert_eq!(judged(&mut position, &[12]), [Step::Look], "what was not looked at yet");
    }

    #[test]
    fn a_record_that_was_only_late_is_not_taken_for_a_hole() {
        let mut position = Position::at(5);
        assert_eq!(judged(&mut position, &[9]), [Step::Look]);
        assert_eq!(position.look_again(), Some(5));
        assert_eq!(judged(&mut position, &[5, 9]), [Step::Take, Step::Take], "nothing lies between 5 and 9, twice");
        let mut position = Position::at(5);
        assert_eq!(judged(&mut position, &[9, 11]), [Step::Look; 2]);
        assert_eq!(position.look_again(), Some(5));
        assert_eq!(judged(&mut position, &[7]), [Step::Look], "the hole in front of 7 is another one");
        assert_eq!(position.look_again(), Some(5));
        assert_eq!(judged(&mut position, &[9]), [Step::Look], "and now 7 is missing");
    }

    #[test]
    fn the_record_before_the_first_is_compared_and_not_taken() {
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
    fn a_record_before_the_first_that_is_not_there_is_missed_when_it_was_looked_for_twice() {
        let mut position = Position::after(5, Some(77));
        assert_eq!(position.judge(6, 80), Step::Look);
        assert_eq!(position.look_again(), Some(4));
        assert_eq!(position.judge(6, 80), Step::Missing);
        let mut position = Position::after(5, Some(77));
        assert_eq!(position.judge(6, 80), Step::Look);
        assert_eq!(position.look_again(), Some(4));
        assert_eq!((position.judge(4, 77), position.judge(6, 80)), (Step::Skip, Step::Take));
    }
}
