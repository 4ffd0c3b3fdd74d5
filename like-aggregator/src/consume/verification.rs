//! The verification of a stored offset against its log: what the log's ends say about it, and why a partition stops.
//! Pure.

use std::time::Instant;

use super::position::Position;
use crate::fold::Millis;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Verification {
    /// The record that was folded last was not found at its offset.
    pub(super) missing: bool,
    /// Since when the log has ended before the stored offset.
    pub(super) past_end: Option<Instant>,
    /// When the log's end offsets were last requested.
    pub(super) asked: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verified {
    /// The records from the stored offset up to the log's start are gone.
    Gap { from: i64, to: i64 },
    /// The log ends before the stored offset, which may be temporary.
    PastEnd { next: i64, end: i64 },
    /// The record that was folded last is gone, though the log starts before it.
    Missing { offset: i64, start: i64 },
    /// The stored offset lies within the log.
    Within,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StopReason {
    #[error("it is folded up to {next} and its log ends at {end}{ADVICE}")]
    PastEnd { next: i64, end: i64 },
    #[error(
        "the record at {offset} that was folded has the timestamp {folded}, and the record in the log {found}{ADVICE}"
    )]
    Differs { offset: i64, folded: Millis, found: Millis },
    #[error("the record at {offset} was folded and is no longer there, though the log starts at {start}{ADVICE}")]
    Missing { offset: i64, start: i64 },
}

const ADVICE: &str = ": the topic was cut or created again, or the database belongs to another topic. Nothing is \
     skipped: restore the log, or set the offset by `like-aggregator offsets reset`; to count only the log as it is now, \
     run `like-aggregator rebuild` after that";

impl Verification {
    pub(super) fn compare(&self, position: &Position, start: i64, end: i64) -> Verified {
        let next = position.next;
        if next < start {
            Verified::Gap { from: next, to: start }
        } else if next > end {
            Verified::PastEnd { next, end }
        } else if self.missing && position.is_unproven() && next > start {
            Verified::Missing { offset: next - 1, start }
        } else {
            Verified::Within
        }
    }
}

impl StopReason {
    /// Whether the record that was folded last is another one or gone.
    pub(super) fn is_by_time(self) -> bool {
        !matches!(self, Self::PastEnd { .. })
    }

    /// Whether the reason no longer applies at the same stored offset with this timestamp of the last folded record, which
    /// `offsets reset` clears and `rebuild` replaces.
    pub(super) fn is_settled_by(self, stored: Option<Millis>) -> bool {
        match self {
            Self::PastEnd { .. } => false,
            Self::Differs { folded, .. } => stored != Some(folded),
            Self::Missing { .. } => stored.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_may_remove_the_folded_record() {
        let missing = Verification { missing: true, ..Verification::default() };
        let position = Position::after(5, Some(77));
        assert_eq!(missing.compare(&position, 0, 9), Verified::Missing { offset: 4, start: 0 });
        assert_eq!(missing.compare(&position, 5, 9), Verified::Within);
    }
}
