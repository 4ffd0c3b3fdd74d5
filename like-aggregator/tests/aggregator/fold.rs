//! The fold against a plain reference that applies events one by one: both give the same likers and counts,
//! whatever the order, the repeats and the borders of batches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hashbrown::HashMap;
use like_aggregator::fold::{Batch, Changes, Dedup, HourSum, Millis, Record};
use like_events::{EventId, LikeEvent, ProductId, UserId};
use proptest::prelude::*;
use uuid::Uuid;

/// Small, so that a few hundred milliseconds of log hold repeats within it and beyond it.
const WINDOW: Duration = Duration::from_millis(200);

const HOUR: Millis = 3_600_000;

#[derive(Debug, Clone)]
struct Sent {
    id: u8,
    /// None: a delta event.
    user: Option<u8>,
    liked: bool,
    /// Since the event before; a broker's clock may step back.
    step_ms: i64,
    /// Whether a batch ends before this event.
    cut: bool,
}

/// An id decides its product: it is never used for two.
fn product(id: u8) -> String {
    format!("p{}", id % 4)
}

fn sent() -> impl Strategy<Value = Sent> {
    let user = prop_oneof![3 => (0..4u8).prop_map(Some), 1 => Just(None)];
    let step = prop_oneof![8 => 0..20i64, 1 => 150..260i64, 1 => -250..0i64];
    (0..24u8, user, any::<bool>(), step, prop::bool::weighted(0.2)).prop_map(|(id, user, liked, step_ms, cut)| Sent {
        id,
        user,
        liked,
        step_ms,
        cut,
    })
}

/// The result of a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    likers: BTreeSet<(String, String)>,
    counts: BTreeMap<String, i64>,
    deltas: BTreeMap<String, i64>,
    /// By product and hour.
    hours: BTreeMap<(String, Millis), i64>,
    applied: u64,
    unchanged: u64,
    duplicates: u64,
}

impl State {
    /// A product with zero likes, or with none gained in an hour, may have a row or none.
    fn without_zeros(mut self) -> Self {
        self.hours.retain(|_, likes| *likes != 0);
        self.counts.retain(|_, count| *count != 0);
        self.deltas.retain(|_, delta| *delta != 0);
        self
    }
}

/// Applies one event after the other.
fn reference(events: &[(Sent, Millis)]) -> State {
    let mut state = State::default();
    let mut counted: BTreeMap<u8, Vec<Millis>> = BTreeMap::new();
    for (event, time) in events {
        let times = counted.entry(event.id).or_default();
        if times.iter().any(|counted| *counted >= time - WINDOW.as_millis() as Millis) {
            state.duplicates += 1;
            continue;
        }
        times.push(*time);
        let product = product(event.id);
        let step = if event.liked { 1 } else { -1 };
        let hour = (product.clone(), time / HOUR * HOUR);
        let Some(user) = event.user else {
            *state.deltas.entry(product.clone()).or_default() += step;
            *state.counts.entry(product).or_default() += step;
            *state.hours.entry(hour).or_default() += step;
            state.applied += 1;
            continue;
        };
        let pair = (product.clone(), format!("u{user}"));
        let changed = if event.liked { state.likers.insert(pair) } else { state.likers.remove(&pair) };
        if changed {
            *state.counts.entry(product).or_default() += step;
            *state.hours.entry(hour).or_default() += step;
            state.applied += 1;
        } else {
            state.unchanged += 1;
        }
    }
    state
}

/// The tables that a worker writes.
#[derive(Default)]
struct Tables {
    handled: Vec<(Uuid, Millis)>,
    likes: HashMap<Uuid, (bool, String, String)>,
    state: State,
}

impl Tables {
    /// What a worker does around the fold: the same look-ups with the same bounds.
    fn apply(&mut self, batch: &Batch) {
        let Some(earliest) = batch.times().min() else { return };
        let since = earliest - WINDOW.as_millis() as Millis;
        let mut handled = HashMap::new();
        for (id, time) in self.handled.iter().filter(|(_, time)| *time >= since) {
            if batch.event_ids().binary_search(id).is_ok() {
                let latest: &mut Millis = handled.entry(*id).or_insert(*time);
                *latest = (*time).max(*latest);
            }
        }
        let fold = batch.fold(Dedup::History(WINDOW), handled);
        let liked = self.likes.iter().map(|(key, (liked, ..))| (*key, *liked)).collect();
        let Changes { first_likes, changed, sums, hours, applied, unchanged } = fold.changes(batch, &liked);
        self.handled.extend_from_slice(&fold.handled);
        for &index in &first_likes {
            let desired = &fold.desired[index];
            assert!(desired.last, "a first row is a like");
            let row = (true, batch.product(desired.product).to_owned(), desired.user.to_owned());
            assert!(self.likes.insert(desired.pair_key, row).is_none(), "a plain insert must not conflict");
        }
        for &index in &changed {
            let desired = &fold.desired[index];
            self.likes.get_mut(&desired.pair_key).expect("only existing rows are updated").0 = desired.last;
        }
        assert!(sums.is_sorted_by_key(|sum| batch.product(sum.product)), "rows are locked in product order");
        for sum in &sums {
            let product = batch.product(sum.product).to_owned();
            *self.state.counts.entry(product.clone()).or_default() += sum.likes;
            *self.state.deltas.entry(product).or_default() += sum.deltas;
        }
        let key = |sum: &HourSum| (sum.hour, batch.product(sum.product).to_owned());
        assert!(hours.is_sorted_by(|a, b| key(a) < key(b)), "rows are locked in the order of their key, each once");
        for sum in &hours {
            *self.state.hours.entry((batch.product(sum.product).to_owned(), sum.hour)).or_default() += sum.likes;
        }
        self.state.applied += applied;
        self.state.unchanged += unchanged;
        self.state.duplicates += fold.duplicates;
    }

    fn finish(mut self) -> State {
        let liked = self.likes.into_values().filter(|(liked, ..)| *liked);
        self.state.likers = liked.map(|(_, product, user)| (product, user)).collect();
        self.state
    }
}

/// The log as batches, cut where an event says so. A product's events share a partition.
fn batches(events: &[(Sent, Millis)]) -> Vec<Batch> {
    let mut batches = vec![Batch::default()];
    let mut next = [0i64; 2];
    for (event, time) in events {
        if event.cut {
            batches.push(Batch::default());
        }
        let name = product(event.id);
        let partition = i32::from(event.id % 4 / 2);
        let value = LikeEvent {
            event_id: EventId::from(Uuid::from_u128((u128::from(event.id) + 1) << 64)),
            liked: event.liked,
            product_id: ProductId::parse(&name).unwrap(),
            user_id: event.user.map(|user| UserId::parse(&format!("u{user}")).unwrap()),
            occurred_at: chrono::DateTime::UNIX_EPOCH,
        }
        .to_json();
        let offset = next[partition as usize];
        let record = Record { partition, offset, time: *time, key: Some(name.as_bytes()), value: Some(&value) };
        batches.last_mut().unwrap().push(&record, offset);
        next[partition as usize] = offset + 1;
    }
    batches
}

/// The batch in parts of at most `size` records, halved again and again.
fn parts(mut batch: Batch, size: usize) -> Vec<Batch> {
    let half = if batch.len() > size { batch.split_off_half() } else { None };
    let Some(rest) = half else { return vec![batch] };
    [parts(batch, size), parts(rest, size)].into_iter().flatten().collect()
}

fn timed(events: Vec<Sent>) -> Vec<(Sent, Millis)> {
    // Every log but a short one passes an hour's end, and some step back before it.
    let mut time = 1_000 * HOUR - 300;
    let step = |event: Sent| {
        time += event.step_ms;
        (event, time)
    };
    events.into_iter().map(step).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_batches_fold_like_single_events(events in prop::collection::vec(sent(), 0..120)) {
        let events = timed(events);
        let mut tables = Tables::default();
        batches(&events).iter().for_each(|batch| tables.apply(batch));
        prop_assert_eq!(tables.finish().without_zeros(), reference(&events).without_zeros());
    }

    #[test]
    fn parts_fold_like_the_whole_batch(
        events in prop::collection::vec(sent(), 1..120), size in 1..20usize,
    ) {
        let events = timed(events);
        let (mut tables, mut next) = (Tables::default(), BTreeMap::<i32, i64>::new());
        for batch in batches(&events) {
            let (whole, ends) = (batch.len(), batch.spans().clone());
            let parts = parts(batch, size);
            prop_assert!(parts.iter().all(|part| part.len() <= size));
            prop_assert_eq!(parts.iter().map(Batch::len).sum::<usize>(), whole);
            let mut last = BTreeMap::new();
            for part in &parts {
                for (&partition, span) in part.spans() {
                    prop_assert_eq!(span.believed, next.insert(partition, span.next).unwrap_or(0));
                    prop_assert!(span.next > span.believed, "a part moves what it covers");
                    last.insert(partition, span.last_time);
                }
                tables.apply(part);
            }
            prop_assert!(ends.iter().all(|(p, span)| (next[p], last[p]) == (span.next, span.last_time)));
        }
        prop_assert_eq!(tables.finish().without_zeros(), reference(&events).without_zeros());
    }

    #[test]
    fn absorbed_batches_fold_like_one(events in prop::collection::vec(sent(), 1..120), first in 0..2i32, half in any::<bool>()) {
        let events = timed(events);
        let mut tables = Tables::default();
        for (mut batch, mut other) in batches(&events).into_iter().zip(batches(&events)) {
            let (records, spans) = (batch.len(), batch.spans().clone());
            if half {
                other = batch.split_off_half().unwrap_or_default();
            } else {
                batch.remove_partition(1 - first);
                other.remove_partition(first);
            }
            batch.absorb(other);
            prop_assert_eq!((batch.len(), batch.spans()), (records, &spans));
            tables.apply(&batch);
        }
        prop_assert_eq!(tables.finish().without_zeros(), reference(&events).without_zeros());
    }

    #[test]
    fn replayed_log_changes_nothing(
        events in prop::collection::vec(sent(), 1..60), from in 0..60usize,
    ) {
        // All are within the window.
        let events: Vec<_> = timed(events).into_iter().map(|(event, _)| (event, 1_000_000)).collect();
        let mut tables = Tables::default();
        batches(&events).iter().for_each(|batch| tables.apply(batch));
        let counts = tables.state.counts.clone();
        batches(&events[from.min(events.len())..]).iter().for_each(|batch| tables.apply(batch));
        prop_assert_eq!(tables.state.counts, counts);
    }

    #[test]
    fn dedup_batch_drops_repeats_in_a_batch(events in prop::collection::vec(sent(), 0..80)) {
        let events: Vec<_> = timed(events).into_iter().map(|(event, time)| (Sent { cut: false, ..event }, time)).collect();
        let batch = batches(&events).pop().unwrap();
        let ids: BTreeSet<_> = events.iter().map(|(event, _)| event.id).collect();
        let fold = batch.fold(Dedup::Batch, HashMap::new());
        prop_assert_eq!(fold.handled.len(), ids.len());
        prop_assert_eq!(fold.duplicates as usize, events.len() - ids.len());
    }
}
