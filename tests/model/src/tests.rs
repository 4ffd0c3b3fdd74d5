//! The model as built, where every property holds, and with safeguards taken out, where a property must fail.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::batch::{Dedup, Event, Log};
use crate::model::{END, FOLD, FOLDED_ONCE, NEVER_BACK, NONE_LEFT_OUT, Part, Step, System};

/// A delta event, its repeat, and another one.
const DELTAS: &[Event] = &[Event::Delta(0), Event::Delta(0), Event::Delta(1)];
/// Like, unlike, and a repeat of the like, which would restore the older state.
const USER_EVENTS: &[Event] = &[Event::Desired(2, true), Event::Desired(3, false), Event::Desired(2, true)];
/// No repeats, for `DEDUP=batch`.
const DISTINCT: &[Event] = &[Event::Delta(0), Event::Delta(1), Event::Delta(2)];

/// As the code is: two workers, no rebuild.
fn built(first: &'static [Event], second: &'static [Event]) -> System {
    System {
        log: Log::new(Dedup::History, [first, second]),
        workers: 2,
        lanes: false,
        rebuild: None,
        moves: 2,
        faults: 1,
        without: &[],
    }
}

/// `DEDUP=batch`: repeats in a later batch are not found.
fn without_history() -> System {
    System { log: Log::new(Dedup::Batch, [DISTINCT, &[]]), ..built(&[], &[]) }
}

fn rebuilding() -> System {
    System { rebuild: Some(1), ..built(&DELTAS[..2], &[]) }
}

fn without(parts: &'static [Part], system: System) -> System {
    System { without: parts, ..system }
}

/// Offsets are neither locked nor compared.
fn unfenced(system: System) -> System {
    without(&[Part::Fence, Part::OffsetRecheck], system)
}

/// Visits all states: every property holds.
#[track_caller]
fn holds(system: System) {
    visit(system).assert_properties();
}

/// Visits all states: these properties hold. Deadlocks and reachability are not checked.
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

/// Returns the shortest path to a state that violates the property.
#[track_caller]
fn fails(property: &'static str, system: System) -> Vec<Step> {
    let found = system.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let path = found.assert_any_discovery(property).into_actions();
    println!("violated: {property}, after {path:?}");
    path
}

const EXACT: &[&str] = &[FOLDED_ONCE, NONE_LEFT_OUT, FOLD, END, NEVER_BACK];

#[test]
fn moves_and_crashes_count_exactly() {
    holds(System { moves: 3, faults: 2, ..built(DELTAS, &[]) });
    holds(built(USER_EVENTS, &[]));
    holds(without_history());
}

#[test]
fn two_partition_batches_count_exactly() {
    holds(built(&DELTAS[..2], &USER_EVENTS[..1]));
}

/// One process, whose lanes apply batches of different partitions.
fn lanes(first: &'static [Event], second: &'static [Event]) -> System {
    System { lanes: true, moves: 0, ..built(first, second) }
}

#[test]
fn lanes_count_exactly() {
    holds(System { faults: 2, ..lanes(&DELTAS[..2], &USER_EVENTS[..2]) });
    holds(System { rebuild: Some(2), ..lanes(&DELTAS[..1], &USER_EVENTS[..1]) });
    fails(END, unfenced(System { log: without_history().log, ..lanes(&[], &[]) }));
}

#[test]
fn rebuild_swap_counts_exactly() {
    holds(System { faults: 2, ..rebuilding() });
    holds(System { rebuild: Some(1), ..built(&DELTAS[..1], &USER_EVENTS[..1]) });
}

#[test]
fn rebuild_by_new_rules_counts_exactly() {
    holds(System { rebuild: Some(2), ..rebuilding() });
}

#[test]
#[ignore = "5.6 million states: half a minute"]
fn rebuild_swap_of_more_records_counts_exactly() {
    holds(System { rebuild: Some(1), ..built(&DELTAS[..2], &USER_EVENTS[..1]) });
}

/// A single worker: only its own orphaned transaction can have moved the offset.
#[test]
fn unanswered_commit_is_fenced() {
    holds(System { workers: 1, moves: 0, ..built(DELTAS, &[]) });
}

#[test]
fn no_fence_counts_twice() {
    fails(FOLDED_ONCE, unfenced(built(DELTAS, &[])));
    fails(END, unfenced(without_history()));
    fails(END, System { faults: 0, ..unfenced(without_history()) });
    fails(END, System { moves: 0, ..unfenced(without_history()) });
}

#[test]
fn no_fence_moves_receipts_back() {
    fails(NEVER_BACK, unfenced(built(DELTAS, &[])));
    fails(FOLD, unfenced(built(DELTAS, &[])));
    hold(&[END], unfenced(built(DELTAS, &[])));
    hold(&[END], unfenced(built(USER_EVENTS, &[])));
}

/// A batch that waits for a row of the old tables passes its check there, then writes into the new tables, where it
/// holds no row.
#[test]
fn swap_by_row_locks_counts_twice() {
    let rows = || without(&[Part::TableLocks, Part::OffsetRecheck], System { moves: 1, faults: 0, ..rebuilding() });
    let rows_without_history = System { log: without_history().log, ..rows() };
    for (property, system) in [(FOLDED_ONCE, rows()), (NEVER_BACK, rows()), (END, rows_without_history)] {
        let path = fails(property, system);
        assert!(path.contains(&Step::Rename), "the path has no rename: {path:?}");
    }
    hold(EXACT, System { rebuild: None, ..rows() });
}

/// Either safeguard is enough while the other one is present.
#[test]
fn recheck_or_table_lock_is_enough() {
    hold(EXACT, without(&[Part::TableLocks], rebuilding()));
    holds(without(&[Part::OffsetRecheck], rebuilding()));
}

/// The lock at the start of a batch keeps the swap away. Without it the batch's counts stay in the old tables and its
/// offset moves in the new ones.
#[test]
fn late_recheck_alone_fails_at_a_swap() {
    let late = |system| without(&[Part::Fence], system);
    hold(EXACT, late(built(DELTAS, &[])));
    let path = fails(NONE_LEFT_OUT, System { moves: 0, faults: 0, ..late(rebuilding()) });
    assert!(path.contains(&Step::Rename), "the path has no rename: {path:?}");
}

#[test]
fn no_fold_version_mixes_rules() {
    fails(END, without(&[Part::FoldVersion], System { rebuild: Some(2), ..rebuilding() }));
}

#[test]
fn offsets_in_kafka_count_twice_after_crash() {
    let in_kafka = |system| {
        let parts = &[Part::Fence, Part::OffsetRecheck, Part::OffsetsInTransaction];
        without(parts, System { workers: 1, moves: 0, ..system })
    };
    let path = fails(END, in_kafka(without_history()));
    assert!(path.iter().any(|step| matches!(step, Step::Crash(_))), "{path:?}");
    hold(&[END], in_kafka(built(DELTAS, &[])));
    hold(EXACT, System { faults: 0, ..in_kafka(without_history()) });
}

/// `eventually` needs that every path ends.
#[test]
fn step_graph_has_no_cycle() {
    let lanes = lanes(&DELTAS[..1], &USER_EVENTS[..1]);
    for system in
        [built(&DELTAS[..1], &USER_EVENTS[..1]), lanes, rebuilding(), System { rebuild: Some(2), ..rebuilding() }]
    {
        let hasher = RandomState::new();
        let start = system.init_states()[0];
        // Whether all successors of a state were visited.
        let mut visited = HashMap::from([(hasher.hash_one(start), false)]);
        let mut path = vec![(start, system.next_states(&start))];
        while let Some((state, next)) = path.last_mut() {
            let Some(next) = next.pop() else {
                visited.insert(hasher.hash_one(*state), true);
                path.pop();
                continue;
            };
            match visited.insert(hasher.hash_one(next), false) {
                None => path.push((next, system.next_states(&next))),
                Some(true) => drop(visited.insert(hasher.hash_one(next), true)),
                Some(false) => panic!("{next:?} leads back to itself"),
            }
        }
        println!("{} states", visited.len());
    }
}
