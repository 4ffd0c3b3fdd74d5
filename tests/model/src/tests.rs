//! All properties hold for the design as it is. Without a safeguard, the expected one fails.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::batch::{Dedup, Event, Log};
use crate::model::{END, EXACTLY_BELOW, FOLD, FOLDED_ONCE, NEVER_BACK, Part, Step, System};

/// A delta event, its duplicate, and another one.
const DELTAS: &[Event] = &[Event::Delta(0), Event::Delta(0), Event::Delta(1)];
/// A like, an unlike, and a duplicate of the like, which would restore the older state.
const STATES: &[Event] = &[Event::Desired(2, true), Event::Desired(3, false), Event::Desired(2, true)];
/// Without duplicates, for `DEDUP=batch`.
const DIFFERENT: &[Event] = &[Event::Delta(0), Event::Delta(1), Event::Delta(2)];

/// The design as it is: two workers, no rebuild.
fn built(first: &'static [Event], second: &'static [Event]) -> System {
    System {
        log: Log::new(Dedup::History, [first, second]),
        workers: 2,
        rebuild: None,
        moves: 2,
        faults: 1,
        without: &[],
    }
}

/// With `DEDUP=batch`, which does not detect events of earlier batches.
fn without_history() -> System {
    System { log: Log::new(Dedup::Batch, [DIFFERENT, &[]]), ..built(&[], &[]) }
}

fn rebuilding() -> System {
    System { rebuild: Some(1), ..built(&DELTAS[..2], &[]) }
}

fn without(parts: &'static [Part], system: System) -> System {
    System { without: parts, ..system }
}

/// Without any check of the stored offsets.
fn unfenced(system: System) -> System {
    without(&[Part::Fence, Part::SecondCheck], system)
}

/// Visits all states and checks all properties.
#[track_caller]
fn holds(system: System) {
    visit(system).assert_properties();
}

/// Visits all states and checks these properties only.
#[track_caller]
fn hold(properties: &[&'static str], system: System) {
    let visited = visit(system);
    properties.iter().for_each(|property| visited.assert_no_discovery(property));
}

fn visit(system: System) -> impl Checker<System> {
    let start = Instant::now();
    let visited = system.checker().spawn_dfs().join();
    println!("{} states, {} steps, {:.1?}", visited.unique_state_count(), visited.state_count(), start.elapsed());
    visited
}

/// Returns the shortest path to a state in which the property is false.
#[track_caller]
fn fails(property: &'static str, system: System) -> Vec<Step> {
    let found = system.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let way = found.assert_any_discovery(property).into_actions();
    println!("violated: {property}, after {way:?}");
    way
}

const EXACT: &[&str] = &[FOLDED_ONCE, EXACTLY_BELOW, FOLD, END, NEVER_BACK];

#[test]
fn design_is_exact_under_moves_and_crashes() {
    holds(System { moves: 3, faults: 2, ..built(DELTAS, &[]) });
    holds(built(STATES, &[]));
    holds(without_history());
}

#[test]
fn batches_over_two_partitions_are_exact() {
    holds(built(&DELTAS[..2], &STATES[..1]));
}

#[test]
fn rebuild_is_exact() {
    holds(System { faults: 2, ..rebuilding() });
    holds(System { rebuild: Some(1), ..built(&DELTAS[..1], &STATES[..1]) });
}

#[test]
fn rebuild_by_a_new_build_is_exact() {
    holds(System { rebuild: Some(2), ..rebuilding() });
}

#[test]
#[ignore = "5.6 million states: half a minute"]
fn rebuild_with_more_records_is_exact() {
    holds(System { rebuild: Some(1), ..built(&DELTAS[..2], &STATES[..1]) });
}

/// With one worker, only the lost answer can have advanced the offset.
#[test]
fn lost_commit_answer_is_fenced() {
    holds(System { workers: 1, moves: 0, ..built(DELTAS, &[]) });
}

#[test]
fn without_fence_a_record_counts_twice() {
    fails(FOLDED_ONCE, unfenced(built(DELTAS, &[])));
    fails(END, unfenced(without_history()));
    fails(END, System { faults: 0, ..unfenced(without_history()) });
    fails(END, System { moves: 0, ..unfenced(without_history()) });
}

#[test]
fn without_fence_a_receipt_goes_back() {
    fails(NEVER_BACK, unfenced(built(DELTAS, &[])));
    fails(FOLD, unfenced(built(DELTAS, &[])));
    hold(&[END], unfenced(built(DELTAS, &[])));
    hold(&[END], unfenced(built(STATES, &[])));
}

/// A batch that waits for a row of the old tables passes its check there and writes to the new tables,
/// where it holds no lock.
#[test]
fn swap_with_row_locks_counts_twice() {
    let rows = || without(&[Part::TableLocks, Part::SecondCheck], System { moves: 1, faults: 0, ..rebuilding() });
    let rows_without_history = System { log: without_history().log, ..rows() };
    for (property, system) in [(FOLDED_ONCE, rows()), (NEVER_BACK, rows()), (END, rows_without_history)] {
        let way = fails(property, system);
        assert!(way.contains(&Step::Rename), "violated without the swap: {way:?}");
    }
    hold(EXACT, System { rebuild: None, ..rows() });
}

/// Table locks and the second check of the offset: each suffices without the other.
#[test]
fn table_locks_or_second_check_suffice() {
    hold(EXACT, without(&[Part::TableLocks], rebuilding()));
    holds(without(&[Part::SecondCheck], rebuilding()));
}

/// The batch's first lock excludes the swap: without it the counts go to the old tables and the offset
/// to the new ones.
#[test]
fn second_check_alone_fails_under_a_swap() {
    let unlocked = |system| without(&[Part::Fence], system);
    hold(EXACT, unlocked(built(DELTAS, &[])));
    let way = fails(EXACTLY_BELOW, System { moves: 0, faults: 0, ..unlocked(rebuilding()) });
    assert!(way.contains(&Step::Rename), "violated without the swap: {way:?}");
}

#[test]
fn without_fold_version_two_builds_mix() {
    fails(END, without(&[Part::FoldVersion], System { rebuild: Some(2), ..rebuilding() }));
}

#[test]
fn offsets_committed_later_count_twice_after_a_crash() {
    let in_kafka = |system| {
        let parts = &[Part::Fence, Part::SecondCheck, Part::OffsetsWithTheBatch];
        without(parts, System { workers: 1, moves: 0, ..system })
    };
    let way = fails(END, in_kafka(without_history()));
    assert!(way.iter().any(|step| matches!(step, Step::Crash(_))), "{way:?}");
    hold(&[END], in_kafka(built(DELTAS, &[])));
    hold(EXACT, System { faults: 0, ..in_kafka(without_history()) });
}

/// Every path is finite. `eventually` checks only the ends of paths, so a cycle could hide a violation.
#[test]
fn no_path_has_a_cycle() {
    for system in [built(&DELTAS[..1], &STATES[..1]), rebuilding(), System { rebuild: Some(2), ..rebuilding() }] {
        let hasher = RandomState::new();
        let start = system.init_states()[0];
        // Whether all successors of a state have been visited.
        let mut visited = HashMap::from([(hasher.hash_one(start), false)]);
        let mut way = vec![(start, system.next_states(&start))];
        while let Some((state, next)) = way.last_mut() {
            let Some(next) = next.pop() else {
                visited.insert(hasher.hash_one(*state), true);
                way.pop();
                continue;
            };
            match visited.insert(hasher.hash_one(next), false) {
                None => way.push((next, system.next_states(&next))),
                Some(true) => drop(visited.insert(hasher.hash_one(next), true)),
                Some(false) => panic!("{next:?} is on a cycle"),
            }
        }
        println!("{} states", visited.len());
    }
}
