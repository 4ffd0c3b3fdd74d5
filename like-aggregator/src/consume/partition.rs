//! The phases of one assigned partition and the transitions between them. Pure: `assignment` and `log_check` act on what
//! a transition returns. docs/ARCHITECTURE.md draws the phases.
//!
//! Pausing is no phase: all fetched partitions are paused together while one batch is in flight, so `thread::InFlight`
//! holds what is paused.

use super::group::ReportedEnds;
use super::position::Position;
use super::verification::{StopReason, Verification};
use crate::apply::transaction::StoredOffset;

/// A partition that the group has assigned to this process.
#[derive(Debug)]
pub(super) struct Partition {
    phase: Phase,
    /// The offset committed in PostgreSQL, as far as known.
    pub(super) committed: Option<i64>,
    /// Whether `committed` is still to be copied to Kafka.
    pub(super) uncopied: bool,
    /// (next, end): from the position `next` up to `end` there is no record, only markers of transactions.
    only_markers: (i64, i64),
}

#[derive(Debug)]
enum Phase {
    /// The stored offset is being read. Records that are still fetched are dropped.
    AwaitingOffset { fetched: bool, verification: Option<Verification> },
    /// Its stored offset may lie outside its log. It is compared with the log's ends, and not fetched.
    VerifyingLog(Position, Verification),
    /// The log starts after the stored offset; the gap is being recorded.
    RecordingGap { from: i64 },
    /// librdkafka fetches it.
    Fetching(Position),
    /// Its log is not the one that was folded. Not fetched until its stored offset changes.
    Stopped { reason: StopReason, asked: bool },
    /// `kafka_offset` has no row for it, so its start is unknown: the log's start would count likes twice, and its end
    /// would lose some.
    WithoutOffsetRow { asked: bool },
    /// The group has revoked it; the batch in flight gets a moment before it is given back.
    Revoked { fetched: bool },
}

impl Partition {
    pub(super) fn assigned() -> Self {
        let phase = Phase::AwaitingOffset { fetched: false, verification: None };
        Self { phase, committed: None, uncopied: false, only_markers: (0, 0) }
    }

    pub(super) fn is_fetched(&self) -> bool {
        match self.phase {
            Phase::Fetching(_) => true,
            Phase::AwaitingOffset { fetched, .. } | Phase::Revoked { fetched } => fetched,
            _ => false,
        }
    }

    pub(super) fn is_awaiting_offset(&self) -> bool {
        match self.phase {
            Phase::AwaitingOffset { .. } => true,
            Phase::Stopped { asked, .. } | Phase::WithoutOffsetRow { asked } => asked,
            _ => false,
        }
    }

    pub(super) fn is_without_offset_row(&self) -> bool {
        matches!(self.phase, Phase::WithoutOffsetRow { .. })
    }

    pub(super) fn stop_reason(&self) -> Option<StopReason> {
        match self.phase {
            Phase::Stopped { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Its position while its records are taken.
    pub(super) fn fetching(&mut self) -> Option<&mut Position> {
        match &mut self.phase {
            Phase::Fetching(position) => Some(position),
            _ => None,
        }
    }

    /// Whether records are, or are to be, taken from a known position.
    pub(super) fn has_position(&self) -> bool {
        matches!(self.phase, Phase::Fetching(_) | Phase::VerifyingLog(..) | Phase::RecordingGap { .. })
    }

    pub(super) fn verifying(&mut self) -> Option<(&mut Position, &mut Verification)> {
        match &mut self.phase {
            Phase::VerifyingLog(position, verification) => Some((position, verification)),
            _ => None,
        }
    }

    /// Waits for the stored offset, to continue from there. Returns false for a partition that is being revoked.
    pub(super) fn rewind(&mut self) -> bool {
        match &mut self.phase {
            Phase::Revoked { .. } => return false,
            Phase::Stopped { asked, .. } | Phase::WithoutOffsetRow { asked } => *asked = true,
            Phase::AwaitingOffset { .. } => {}
            phase => {
                let fetched = matches!(phase, Phase::Fetching(_));
                let verification = if let Phase::VerifyingLog(_, it) = phase { Some(*it) } else { None };
                *phase = Phase::AwaitingOffset { fetched, verification };
            }
        }
        true
    }

    /// Waits for the stored offset without being fetched. Does that for fetched partitions only; returns whether it was one,
    /// which then must no longer be fetched.
    #[must_use]
    pub(super) fn hold(&mut self) -> bool {
        let was_fetched = matches!(self.phase, Phase::Fetching(_));
        if was_fetched {
            self.phase = Phase::AwaitingOffset { fetched: false, verification: None };
        }
        was_fetched
    }

    /// Starts a verification against the log's ends, once the stored offset is read again. Does that for fetched partitions
    /// only; returns whether it was one, which then must no longer be fetched.
    #[must_use]
    pub(super) fn verify(&mut self, missing: bool) -> bool {
        let was_fetched = self.hold();
        if was_fetched {
            let verification = Some(Verification { missing, ..Verification::default() });
            self.phase = Phase::AwaitingOffset { fetched: false, verification };
        }
        was_fetched
    }

    /// The stored offset is known. Returns whether to fetch from it; if not, it is verified first.
    pub(super) fn offset_known(&mut self, stored: &StoredOffset) -> Option<Position> {
        self.committed = Some(stored.next_offset);
        let last = stored.last_record_time.map(|time| time.timestamp_millis());
        let position = Position::after(stored.next_offset, last);
        if let Phase::AwaitingOffset { verification: Some(verification), .. } = self.phase {
            self.phase = Phase::VerifyingLog(position, verification);
            return None;
        }
        Some(position)
    }

    /// There is no stored offset. Returns whether that is a change.
    pub(super) fn offset_missing(&mut self) -> bool {
        let new = !self.is_without_offset_row();
        self.phase = Phase::WithoutOffsetRow { asked: false };
        new
    }

    pub(super) fn fetch_from(&mut self, position: Position) {
        self.phase = Phase::Fetching(position);
    }

    /// Takes the position of a partition that is fetched or may be fetched now, for [`Self::fetch_from`].
    pub(super) fn take_position(&mut self) -> Option<Position> {
        let fetched = self.is_fetched();
        match std::mem::replace(&mut self.phase, Phase::AwaitingOffset { fetched, verification: None }) {
            Phase::Fetching(position) | Phase::VerifyingLog(position, _) => Some(position),
            other => {
                self.phase = other;
                None
            }
        }
    }

    pub(super) fn record_gap(&mut self, from: i64) {
        self.phase = Phase::RecordingGap { from };
    }

    /// The gap from `from` to `to` is recorded. Returns whether to fetch from `to`, where the log starts.
    pub(super) fn gap_recorded(&mut self, from: i64, to: i64) -> bool {
        let recording = matches!(self.phase, Phase::RecordingGap { from: of } if of == from);
        if recording {
            (self.committed, self.uncopied) = (Some(to), true);
        }
        recording
    }

    pub(super) fn is_recording_gap(&self) -> bool {
        matches!(self.phase, Phase::RecordingGap { .. })
    }

    /// Its log is not the one that was folded. Returns whether it was fetched until now.
    #[must_use]
    pub(super) fn stop(&mut self, reason: StopReason) -> bool {
        let fetched = self.is_fetched();
        self.phase = Phase::Stopped { reason, asked: false };
        fetched
    }

    pub(super) fn revoke(&mut self) {
        self.phase = Phase::Revoked { fetched: self.is_fetched() };
    }

    /// Returns the number of offsets to be folded, without markers at the log's end: no batch ever moves past those.
    pub(super) fn lag(&mut self, ends: ReportedEnds) -> Option<i64> {
        let committed = self.committed?;
        let mut end = ends.stable;
        if let Some((next, settled)) = self.fetching().map(|position| (position.next, position.is_settled())) {
            if ends.all_polled && settled {
                self.only_markers = (next, end);
            }
            if self.only_markers == (next, end) {
                end = next;
            }
        }
        Some((end - committed).max(0))
    }

    /// Whether the stored offset differs from the committed one, or an operator has settled what stopped the partition.
    pub(super) fn has_moved(&self, stored: Option<&StoredOffset>) -> bool {
        if matches!(self.phase, Phase::Revoked { .. } | Phase::WithoutOffsetRow { .. }) {
            return false;
        }
        let Some(committed) = self.committed else {
            return false;
        };
        let Some(stored) = stored else {
            return true;
        };
        let time = stored.last_record_time.map(|time| time.timestamp_millis());
        stored.next_offset != committed || self.stop_reason().is_some_and(|reason| reason.is_settled_by(time))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use super::super::position::Step;
    use super::*;

    const STORED: StoredOffset = StoredOffset { partition: 0, next_offset: 5, last_record_time: None };

    const NAMES: [&str; 7] =
        ["AwaitingOffset", "VerifyingLog", "RecordingGap", "Fetching", "Stopped", "WithoutOffsetRow", "Revoked"];

    /// The name of a phase, from [`NAMES`]; the match makes a new phase fail to compile.
    fn name(phase: &Phase) -> &'static str {
        NAMES[match phase {
            Phase::AwaitingOffset { .. } => 0,
            Phase::VerifyingLog(..) => 1,
            Phase::RecordingGap { .. } => 2,
            Phase::Fetching(_) => 3,
            Phase::Stopped { .. } => 4,
            Phase::WithoutOffsetRow { .. } => 5,
            Phase::Revoked { .. } => 6,
        }]
    }

    fn fetching() -> Partition {
        let mut partition = Partition::assigned();
        let position = partition.offset_known(&STORED).unwrap();
        partition.fetch_from(position);
        partition
    }

    #[test]
    fn assigned_partition_is_fetched_from_its_stored_offset() {
        let mut partition = Partition::assigned();
        assert_eq!(name(&partition.phase), "AwaitingOffset");
        assert!(partition.is_awaiting_offset() && !partition.is_fetched());
        assert_eq!(partition.offset_known(&STORED), Some(Position::at(5)));
        partition.fetch_from(Position::at(5));
        assert!(partition.is_fetched() && !partition.is_awaiting_offset());
        assert_eq!((partition.committed, partition.has_moved(Some(&STORED))), (Some(5), false));
        assert!(partition.has_moved(None) && partition.has_moved(Some(&StoredOffset { next_offset: 4, ..STORED })));
    }

    #[test]
    fn rewound_partition_stays_fetched_until_its_offset_is_known() {
        let mut partition = fetching();
        assert!(partition.rewind());
        assert!(partition.is_awaiting_offset() && partition.is_fetched() && partition.fetching().is_none());
        assert!(partition.offset_missing(), "a change");
        assert!(!partition.is_fetched() && partition.is_without_offset_row());
        assert!(partition.rewind() && !partition.offset_missing(), "no change");
    }

    #[test]
    fn verification_outlives_a_rewind() {
        let mut partition = fetching();
        assert!(partition.verify(true) && !partition.verify(false), "once");
        assert_eq!(partition.offset_known(&STORED), None);
        partition.verifying().unwrap().1.past_end = Some(Instant::now());
        assert!(partition.rewind() && !partition.is_fetched());
        assert_eq!(partition.offset_known(&STORED), None);
        assert!(partition.verifying().unwrap().1.past_end.is_some());
        assert_eq!(partition.take_position(), Some(Position::at(5)));
    }

    #[test]
    fn markers_at_the_end_are_no_lag() {
        let mut partition = fetching();
        let ends = |stable, all_polled| ReportedEnds { stable, written: None, all_polled };
        assert_eq!(partition.lag(ends(7, false)), Some(2), "perhaps records");
        assert_eq!((partition.lag(ends(7, true)), partition.lag(ends(7, false))), (Some(0), Some(0)));
        assert_eq!(partition.lag(ends(8, false)), Some(3), "the log has grown");
        let position = partition.fetching().unwrap();
        assert_eq!(position.judge(6, 0), Step::Reread);
        assert_eq!(partition.lag(ends(8, true)), Some(3), "a record was polled and not taken");
        partition.fetching().unwrap().taken(6);
        assert_eq!(partition.lag(ends(9, true)), Some(2), "two are to be committed, and two are markers");
    }

    #[test]
    fn gap_is_recorded_once() {
        let mut partition = fetching();
        partition.record_gap(5);
        assert!(!partition.gap_recorded(4, 8) && partition.gap_recorded(5, 8));
        assert_eq!((partition.committed, partition.uncopied), (Some(8), true));
    }

    #[test]
    fn revoked_partition_is_not_rewound() {
        let mut partition = fetching();
        partition.revoke();
        assert!(partition.is_fetched() && !partition.rewind() && !partition.has_moved(None));
    }

    #[test]
    fn architecture_page_draws_all_phases() {
        let page = include_str!("../../../docs/ARCHITECTURE.md");
        let (_, section) = page.rsplit_once("# Partition phases\n").expect("the section");
        let (_, diagram) = section.split_once("stateDiagram-v2").expect("the diagram");
        let (diagram, _) = diagram.split_once("```").unwrap();
        let edges = diagram.lines().filter_map(|line| line.split(':').next()?.split_once("-->"));
        let drawn: BTreeSet<_> =
            edges.flat_map(|(from, to)| [from.trim(), to.trim()]).filter(|&s| s != "[*]").collect();
        assert_eq!(drawn, BTreeSet::from(NAMES));
    }
}
