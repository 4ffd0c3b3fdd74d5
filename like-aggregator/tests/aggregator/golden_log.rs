//! One log and what it folds to. If this differs, every log may fold to something else: raise `FOLD_VERSION` and write the
//! new result here, since tables of the old version must be refused until they are rebuilt. (Version 2 came without hours.
//! They are sums beside what it folds to, and `audit --repair` completes tables that lack them, so they raised nothing.)

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hashbrown::HashMap;
use like_aggregator::fold::{Batch, Dedup, FOLD_VERSION, Record};

const HOUR: i64 = 3_600_000;
const WINDOW: Duration = Duration::from_hours(48);

/// Hour of the record, key and value.
fn log() -> Vec<(i64, &'static str, String)> {
    let id = |n: u32| format!("0197c0de-0000-7000-8000-{n:012}");
    let with = |n: u32, kind: &str, product: &str, user: &str| {
        format!(
            r#"{{"eventId":"{}","type":"{kind}","productId":"{product}",{user}"occurredAt":"2026-11-22T10:00:00Z"}}"#,
            id(n)
        )
    };
    let of = |n, kind, user: &str| with(n, kind, "p", &format!(r#""userId":"{user}","#));
    let like = of(1, "LIKED", "u1");
    vec![
        (0, "p", like.clone()),
        (1, "p", like.clone()),
        (1, "p", of(2, "LIKED", "u2")),
        (2, "p", of(3, "UNLIKED", "u1")),
        // A repeat of the older like at the end of the window, and past it.
        (48, "p", like.clone()),
        (49, "p", like.clone()),
        (50, "p", of(4, "UNLIKED", "never")),
        (50, "p", with(5, "LIKED", "p", "")),
        (50, "p", with(6, "UNLIKED", "p", "")),
        (50, "p", with(7, "UNLIKED", "p", "")),
        (50, "p", with(8, "LIKED", "p", r#""userId":null,"#)),
        (50, "q", with(9, "LIKED", "q", r#""userId":"u1","more":{"a":[1]},"#)),
        // One id for two products, in another case.
        (51, "q", with(4, "LIKED", "q", r#""userId":"u4","#).replace("0197c0de", "0197C0DE")),
        (51, "p", with(10, "LIKED", "q", r#""userId":"u5","#)),
        (51, "p", of(11, "liked", "u6")),
        (51, "p", of(12, "LIKED", "u 7")),
        (51, "p", of(13, "LIKED", "u8").replace("10:00:00Z", "10:00:00")),
        (51, "p", of(0, "LIKED", "nil").replace("0197c0de-0000-7000-8000-", "00000000-0000-0000-0000-")),
        (51, ".", with(14, "LIKED", ".", r#""userId":"u9","#)),
        (51, "p", "null".to_owned()),
        (51, "p", format!("{}{}", " ".repeat(16 * 1024), of(15, "LIKED", "u10"))),
        (52, "p", of(16, "LIKED", "u2")),
        (-1, "p", of(17, "LIKED", "before 1970")),
        // The last moment at which an id is remembered.
        (60, "q", with(18, "LIKED", "q", "")),
        (108, "q", with(18, "LIKED", "q", "")),
    ]
}

const FOLDED: (i32, &str) = (
    2,
    "likers p/u1 p/u2 q/u1; counts and deltas p=1/-1 q=2/1; by hour 0/p=1 1/p=1 2/p=-1 49/p=1 50/p=-1 50/q=1 60/q=1; 4 repeats; \
     dead letters at [10, 13, 14, 15, 16, 17, 18, 19, 20, 22]",
);

/// Folds the log in batches of this many records.
fn folded(records: usize) -> String {
    let (mut handled, mut liked) = (HashMap::new(), HashMap::new());
    let (mut likers, mut counts) = (BTreeMap::new(), BTreeMap::<String, (i64, i64)>::new());
    let mut hours = BTreeMap::<(i64, String), i64>::new();
    let (mut duplicates, mut dead) = (0, Vec::new());
    let log = log();
    for (first, part) in log.chunks(records).enumerate().map(|(n, part)| (n * records, part)) {
        let mut batch = Batch::default();
        for (offset, (hour, key, value)) in (first as i64..).zip(part) {
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            batch.push(&Record { partition: 0, offset, time: hour * HOUR, key, value }, first as i64);
        }
        dead.extend(batch.dead_letters().iter().map(|letter| letter.offset));
        let fold = batch.fold(Dedup::History(WINDOW), handled.clone());
        handled.extend(fold.handled.iter().copied());
        duplicates += fold.duplicates;
        let changes = fold.changes(&batch, &liked);
        for &changed in changes.first_likes.iter().chain(&changes.changed) {
            let desired = &fold.desired[changed];
            liked.insert(desired.pair_key, desired.last);
            likers.insert(format!("{}/{}", batch.product(desired.product), desired.user), desired.last);
        }
        for sum in &changes.sums {
            let count = counts.entry(batch.product(sum.product).to_owned()).or_default();
            *count = (count.0 + sum.likes, count.1 + sum.deltas);
        }
        for sum in &changes.hours {
            *hours.entry((sum.hour / HOUR, batch.product(sum.product).to_owned())).or_default() += sum.likes;
        }
    }
    let mut text = String::new();
    let likers: Vec<_> = likers.iter().filter(|(_, liked)| **liked).map(|(pair, _)| pair.as_str()).collect();
    let _ = write!(text, "likers {}; counts and deltas", likers.join(" "));
    counts.iter().for_each(|(product, (count, deltas))| write!(text, " {product}={count}/{deltas}").unwrap());
    text.push_str("; by hour");
    hours.retain(|_, likes| *likes != 0);
    hours.iter().for_each(|((hour, product), likes)| write!(text, " {hour}/{product}={likes}").unwrap());
    write!(text, "; {duplicates} repeats; dead letters at {dead:?}").unwrap();
    text
}

#[test]
fn golden_log_ties_version_to_result() {
    for records in [1, 4, 100] {
        assert_eq!((FOLD_VERSION, folded(records).as_str()), FOLDED, "in batches of {records}");
    }
}
