//! Where a partition is believed to stand, and what that says of the next record. Pure.

/// The believed position of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The offset that the next record should have.
    pub next: i64,
    /// The first record seen above `next`, if it was sought once already.
    sought: Option<i64>,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is the next one.
    Take,
    /// It was folded before.
    Skip,
    /// Something may be missing in front of it: seek this offset and see what comes.
    Seek(i64),
}

impl Position {
    /// A partition whose next record is `next`.
    pub fn at(next: i64) -> Self {
        Self { next, sought: None }
    }

    /// Judges a record by its offset. Offsets ascend but have holes (a transaction's marker, for
    /// one), and a hole looks like a record lost on the way. So the first record above the
    /// expected one is looked for once more; if it comes first again, nothing is in between.
    pub fn judge(&mut self, offset: i64) -> Step {
        if offset < self.next {
            return Step::Skip;
        }
        if offset > self.next && self.sought != Some(offset) {
            self.sought = Some(offset);
            return Step::Seek(self.next);
        }
        Step::Take
    }

    /// The record at `offset` is in the batch.
    pub fn taken(&mut self, offset: i64) {
        *self = Self::at(offset + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_in_order_and_old_ones_skipped() {
        let mut position = Position::at(5);
        assert_eq!(position.judge(4), Step::Skip);
        assert_eq!(position.judge(5), Step::Take);
        position.taken(5);
        assert_eq!(position.judge(5), Step::Skip);
        assert_eq!(position.judge(6), Step::Take);
    }

    #[test]
    fn a_hole_is_believed_when_it_is_seen_twice() {
        let mut position = Position::at(5);
        assert_eq!(position.judge(7), Step::Seek(5));
        assert_eq!(position.judge(7), Step::Take);
        position.taken(7);
        assert_eq!(position.next, 8);
    }

    #[test]
    fn a_record_that_was_only_late_is_not_taken_for_a_hole() {
        let mut position = Position::at(5);
        assert_eq!(position.judge(9), Step::Seek(5));
        assert_eq!(position.judge(5), Step::Take);
        position.taken(5);
        assert_eq!(position.judge(9), Step::Seek(6), "the hole in front of 9 is another one now");
    }
}
