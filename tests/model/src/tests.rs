//! The model as built, where everything holds, and with parts taken out, where something must not.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::batch::{Dedup, Event, Log};
use crate::model::{END, FOLD, FOLDED_ONCE, NEVER_BACK, NONE_LEFT_OUT, Part, Step, System};

/// A delta event, its repeat, and another one.
const DELTAS: &[Event] = &[Event::Delta(0), Event::Delta(0), Event::Delta(1)];
/// A wish, the opposite, and a repeat of the first, which would bring the old wish back.
const WISHES: &[Event] = &[Event::Wish(2, true), Event::Wish(3, false), Event::Wish(2, true)];
/// No repeats, for `DEDUP=batch`.
const DIFFERENT: &[Event] = &[Event::Delta(0), Event::Delta(1), Event::Delta(2)];

/// As the code is: two workers, no rebuild.
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

/// With `DEDUP=batch`, which doesn't find what was counted before.
fn without_history() -> System {
    System { log: Log::new(Dedup::Batch, [DIFFERENT, &[]]), ..built(&[], &[]) }
}

fn rebuilding() -> System {
    System { rebuild: Some(1), ..built(&DELTAS[..2], &[]) }
}

fn without(parts: &'static [Part], system: System) -> System {
    System { without: parts, ..system }
}

/// Offsets are neither locked nor compared.
fn unfenced(system: System) -> System {
    without(&[Part::Fence, Part::AskingAgain], system)
}

/// Visits all states: everything holds, and all that should be possible is.
#[track_caller]
fn holds(system: System) {
    visit(system).assert_properties();
}

/// Visits all states: these hold. That a standstill is never reached and what is possible are left open.
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

/// Answers the shortest way to a state where the property doesn't hold.
#[track_caller]
fn fails(property: &'static str, system: System) -> Vec<Step> {
    let found = system.checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
    let way = found.assert_any_discovery(property).into_actions();
    println!("not so: {property}, after {way:?}");
    way
}

const EXACT: &[&str] = &[FOLDED_ONCE, NONE_LEFT_OUT, FOLD, END, NEVER_BACK];

#[test]
fn everything_holds_while_partitions_move_and_workers_and_connections_die() {
    holds(System { moves: 3, faults: 2, ..built(DELTAS, &[]) });
    holds(built(WISHES, &[]));
    holds(without_history());
}

#[test]
fn everything_holds_with_batches_over_two_partitions() {
    holds(built(&DELTAS[..2], &WISHES[..1]));
}

#[test]
fn everything_holds_while_a_rebuild_swaps_the_tables() {
    holds(System { faults: 2, ..rebuilding() });
    holds(System { rebuild: Some(1), ..built(&DELTAS[..1], &WISHES[..1]) });
}

#[test]
fn everything_holds_while_a_rebuild_by_other_rules_swaps_the_tables() {
    holds(System { rebuild: Some(2), ..rebuilding() });
}

#[test]
#[ignore = "5.6 million states: half a minute"]
fn everything_holds_with_more_records_while_a_rebuild_swaps_the_tables() {
    holds(System { rebuild: Some(1), ..built(&DELTAS[..2], &WISHES[..1]) });
}

/// Nobody else is there who could have moved on.
#[test]
fn a_batch_whose_commit_was_not_answered_is_fenced() {
    holds(System { workers: 1, moves: 0, ..built(DELTAS, &[]) });
}

#[test]
fn without_the_fence_a_record_is_counted_twice() {
    fails(FOLDED_ONCE, unfenced(built(DELTAS, &[])));
    fails(END, unfenced(without_history()));
    fails(END, System { faults: 0, ..unfenced(without_history()) });
    fails(END, System { moves: 0, ..unfenced(without_history()) });
}

#[test]
fn without_the_fence_a_receipt_goes_back_though_history_saves_the_counts() {
    fails(NEVER_BACK, unfenced(built(DELTAS, &[])));
    fails(FOLD, unfenced(built(DELTAS, &[])));
    hold(&[END], unfenced(built(DELTAS, &[])));
    hold(&[END], unfenced(built(WISHES, &[])));
}

/// The one who waits for a row of the old tables passes its check there and writes into the new ones, of which it holds
/// no row.
#[test]
fn with_row_locks_only_the_swap_lets_a_record_be_counted_twice() {
    let rows = || without(&[Part::TableLocks, Part::AskingAgain], System { moves: 1, faults: 0, ..rebuilding() });
    let rows_without_history = System { log: without_history().log, ..rows() };
    for (property, system) in [(FOLDED_ONCE, rows()), (NEVER_BACK, rows()), (END, rows_without_history)] {
        let way = fails(property, system);
        assert!(way.contains(&Step::Rename), "the swap has nothing to do with it: {way:?}");
    }
    hold(EXACT, System { rebuild: None, ..rows() });
}

/// Each of the two is enough, as long as the other one is there: `store/statements.rs`, `advance`.
#[test]
fn the_offset_asked_for_once_more_makes_up_for_row_locks_and_table_locks_for_not_asking() {
    hold(EXACT, without(&[Part::TableLocks], rebuilding()));
    holds(without(&[Part::AskingAgain], rebuilding()));
}

/// What holds the swap off is the lock that a batch takes first: without it a batch's counts stay in the old tables, and
/// its offset moves in the new ones.
#[test]
fn asking_for_the_offset_at_the_end_only_is_enough_until_a_swap_comes() {
    let late = |system| without(&[Part::Fence], system);
    hold(EXACT, late(built(DELTAS, &[])));
    let way = fails(NONE_LEFT_OUT, System { moves: 0, faults: 0, ..late(rebuilding()) });
    assert!(way.contains(&Step::Rename), "the swap has nothing to do with it: {way:?}");
}

#[test]
fn without_the_fold_version_a_worker_folds_by_the_old_rules_into_the_new_tables() {
    fails(END, without(&[Part::FoldVersion], System { rebuild: Some(2), ..rebuilding() }));
}

#[test]
fn offsets_that_are_committed_after_the_batch_count_it_twice_after_a_crash() {
    let in_kafka = |system| {
        let parts = &[Part::Fence, Part::AskingAgain, Part::OffsetsWithTheBatch];
        without(parts, System { workers: 1, moves: 0, ..system })
    };
    let way = fails(END, in_kafka(without_history()));
    assert!(way.iter().any(|step| matches!(step, Step::Crash(_))), "{way:?}");
    hold(&[END], in_kafka(built(DELTAS, &[])));
    hold(EXACT, System { faults: 0, ..in_kafka(without_history()) });
}

/// Each way ends, and so at a standstill, where all is counted: `eventually` looks at nothing else.
#[test]
fn no_way_leads_in_a_circle() {
    for system in [built(&DELTAS[..1], &WISHES[..1]), rebuilding(), System { rebuild: Some(2), ..rebuilding() }] {
        let hasher = RandomState::new();
        let start = system.init_states()[0];
        // Whether all that follows from a state was visited.
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
                Some(false) => panic!("{next:?} leads back to itself"),
            }
        }
        println!("{} states", visited.len());
    }
}
